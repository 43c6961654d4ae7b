// osp score: log-likelihoods and greedy continuations of texts given as JSON lines
// (docs/formats.md), for scripts. Lines are answered together, at a blank line and at the end, so
// that another program can keep the model loaded and send it more requests.
#include <fstream>
#include <iostream>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/cli/opened_model.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"

namespace osp {
namespace {

struct ScoreCommand {
  CommonOptions common;
  std::string model;
  std::string requests = "-";
  OpenOptions open;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    visit.group("Scoring");
    visit("requests", self.requests,
          "file of JSON lines to answer, each with context and continuation, context and "
          "max_tokens, or text; - = stdin, answered at every blank line and at the end",
          {.value = "FILE"});
    OpenOptions::fields(visit, self.open);
    CommonOptions::fields(visit, self.common);
  }
};

int run(const ScoreCommand& options) {
  const bool from_stdin = options.requests == "-";
  std::ifstream file;
  if (!from_stdin) {
    file.open(options.requests);
    if (!file) fail(ErrorCode::io, "{}: cannot be opened", options.requests);
  }
  OpenedModel model(options.model, options.open, options.common);
  Console console(options.common.quiet);
  note_rounded_before(options.model, rounded_before(find_model_dir(options.model)), console);
  model.show_progress(progress_line(console, "score", "requests"));
  answer_lines(
      from_stdin ? std::cin : file, from_stdin ? "stdin" : options.requests, model,
      [](const std::string& answer) { print_out("{}\n", answer); }, flush_stdout);
  console.end_status();
  return 0;
}

}  // namespace

void add_score(CommandLine& line) {
  line.command<ScoreCommand>(
      "score", "compute log-likelihoods and greedy continuations of JSON lines, for scripts", run);
}

}  // namespace osp
