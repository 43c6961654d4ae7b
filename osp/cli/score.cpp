// osp score: log-likelihoods and greedy continuations of texts given as JSON lines
// (docs/formats.md), for scripts. Lines are answered together, at a blank line and at the end, so
// that another program can keep the model loaded and send it more requests.
#include <fstream>
#include <iostream>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/cli/score_requests.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

// Largest number of lines answered together: bounds the memory of their texts.
constexpr int64_t kMostLines = 1 << 17;

struct ScoreCommand {
  EngineChoice engine;
  CommonOptions common;
  std::string model;
  std::string requests = "-";
  std::string bits;
  int64_t batch_tokens = ScoreOptions().batch_tokens;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    visit.group("Scoring");
    visit("requests", self.requests,
          "file of JSON lines to answer, each with context and continuation, context and "
          "max_tokens, or text; - = stdin, answered at every blank line and at the end",
          {.value = "FILE"});
    visit_bits(visit, self.bits);
    EngineChoice::fields(visit, self.engine);
    visit("batch_tokens", self.batch_tokens, Range{1, 1 << 24},
          "number of tokens per forward pass");
    CommonOptions::fields(visit, self.common);
  }
};

void answer(const ScoreModel& model, RequestBatch& batch, const ScoreOptions& options) {
  for (const Json& result : batch.answer(model, options)) {
    print_out("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  flush_stdout();
}

void answer_lines(std::istream& lines, const std::string& where, const ScoreModel& model,
                  const ScoreOptions& options) {
  RequestBatch batch(where);
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") != std::string::npos) {
      batch.add(line, number, model);
      if (batch.size() < kMostLines) continue;
    }
    answer(model, batch, options);
  }
  if (lines.bad()) fail(ErrorCode::io, "{}: cannot be read", where);
  answer(model, batch, options);
}

int run(const ScoreCommand& options) {
  // Report a mistake before anything is read.
  check_bits(options.common, options.bits);
  const std::string dir = find_model_dir(options.model);
  check_engine_options(options.common, options.engine, is_quantized_model_dir(dir));
  std::ifstream file;
  if (options.requests != "-") {
    file.open(options.requests);
    if (!file) fail(ErrorCode::io, "{}: cannot be opened", options.requests);
  }
  const auto loaded = load_model_at(dir, options.bits, options.engine);
  check_head_applies(options.common, *loaded);
  ScoreModel model{loaded->model.store, {}};
  if (Tokenizer::exists(dir)) model.tokenizer.emplace(Tokenizer::from_file(dir));
  Console console(options.common.quiet);
  ScoreOptions score;
  score.tap = loaded->tap.get();
  score.batch_tokens = options.batch_tokens;
  score.end_tokens = load_end_tokens(dir);
  score.progress = progress_line(console, "score", "requests");
  const bool from_stdin = options.requests == "-";
  answer_lines(from_stdin ? std::cin : file, from_stdin ? "stdin" : options.requests, model, score);
  console.end_status();
  return 0;
}

}  // namespace

void add_score(CommandLine& line) {
  line.command<ScoreCommand>(
      "score", "compute log-likelihoods and greedy continuations of JSON lines, for scripts", run);
}

}  // namespace osp
