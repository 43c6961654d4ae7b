// osp score: log-likelihoods and greedy continuations of texts given as JSON lines
// (docs/formats.md), for scripts. Lines are answered together, at a blank line and at the end, so
// that another program can keep the model loaded and ask it again and again.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/cli/score_requests.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

// Lines that are answered together at most: bounds the memory of their texts.
constexpr int64_t kMostLines = 1 << 17;

struct ScoreArguments {
  CommonOptions common;
  std::string model;
  std::string requests = "-";
  std::string bits = "16-16-16";
  int64_t batch_tokens = 8192;
};

void answer(const ScoreModel& model, RequestBatch& batch, const ScoreOptions& options) {
  for (const Json& result : batch.answer(model, options)) {
    fmt::print("{}\n", result.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  if (std::fflush(stdout) != 0) fail(ErrorCode::io, "stdout: cannot write the results");
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

int run(const ScoreArguments& options) {
  parse_bits(options.bits);  // a mistake is told before anything is read
  const std::string dir = find_model_dir(options.model);
  std::ifstream file;
  if (options.requests != "-") {
    file.open(options.requests);
    if (!file) fail(ErrorCode::io, "{}: cannot be opened", options.requests);
  }
  const auto loaded = load_model_at(dir, options.bits);
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
  auto options = std::make_shared<ScoreArguments>();
  Command command =
      line.command("score", "log-likelihoods and greedy continuations of JSON lines, for scripts");
  add_common_options(command, options->common);
  add_model_option(command, options->model);
  command.add("--requests", options->requests,
              "file of JSON lines; -: stdin, answered at every blank line and at the end");
  command.add("--bits", options->bits, "weights-activations-cache, each 2 to 8, or 16 for none");
  command.add("--batch-tokens", options->batch_tokens, "tokens of one forward pass")
      .between(int64_t{1}, int64_t{1} << 24);
  command.runs([options] { return run(*options); });
}

}  // namespace osp
