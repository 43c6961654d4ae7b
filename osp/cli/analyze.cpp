// osp analyze: does a model have activation outliers, where, and how large are they.
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/provenance.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/eval/outlier_summary.h"
#include "osp/eval/perplexity.h"
#include "osp/eval/point_summary.h"
#include "osp/eval/sink_summary.h"
#include "osp/eval/token_source.h"
#include "osp/eval/weight_summary.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

// As many as the reference's script measures.
constexpr int64_t kReferenceTokens = 128 * 2048;

// Enough for shares to settle to a percent; logits cost T² where everything else costs T.
constexpr int64_t kSinkTokens = 16384;

constexpr int64_t kNoiseBits = 4;  // the width that the project is about

struct AnalyzeArguments : MeasureOptions {
  std::string bits = "16-16-16";
  int64_t sink_tokens = kSinkTokens;
};

// Tokens as [sequences, T], T the window of perplexity; a text shorter than that is one sequence.
at::Tensor sequences_of(std::vector<int64_t>& tokens, const ParameterStore& store) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  if (count == 0) {
    fail(ErrorCode::unsupported, "the data has no tokens to measure; give a longer text");
  }
  check_token_ids(tokens, store.config.vocabulary);
  const int64_t length = std::min(count, perplexity_window(store.config.context));
  return at::from_blob(tokens.data(), {count / length, length}, at::kLong);
}

int run(const AnalyzeArguments& options) {
  parse_bits(options.bits);  // a mistake is told before anything is read
  Console console(options.common.quiet);
  const std::string dir = find_model_dir(options.model);
  const auto loaded = load_model_at(dir, options.bits);
  const ParameterStore& store = loaded->model.store;
  TokenSource source = read_token_source(options.data, dir, options.max_tokens);
  if (!source.warning.empty()) console.warn("{}", source.warning);
  const at::Tensor tokens_BT = sequences_of(source.tokens, store);

  OutlierOptions outliers;
  outliers.histograms = true;
  outliers.quantizers = loaded->tap.get();
  NoiseTap noise(store, kNoiseBits, loaded->model.info.online);
  outliers.watcher = &noise;
  outliers.sink_tokens = options.sink_tokens;
  outliers.progress = progress_line(console, "analyze", "tokens");
  const OutlierReport report = measure_outliers(store, tokens_BT, outliers);
  console.end_status();

  const Tokenizer* tokenizer = source.tokenizer ? &*source.tokenizer : nullptr;
  if (options.common.json) {
    Json json;
    record_provenance(json);
    json["model"] = options.model;
    json["data"] = options.data;
    json["bits"] = loaded->bits.text();
    json.update(outlier_json(report, tokenizer));
    const SpelledData data{source.tokens, tokens_BT.size(1), tokenizer};
    json.update(point_json(report, noise.noise(), data));
    json["weights"] = weight_json(summarize_weights(store, kNoiseBits));
    json["noise_bits"] = kNoiseBits;
    json["quantization_verdict"] = point_verdict(noise.noise());
    json["verdict"] = outlier_verdict(report);
    json["attention_sinks"] = sink_json(report.sinks, tokenizer);
    print_json(json);
  } else {
    fmt::print("{}\n{}\n{}", point_text(report, noise.noise()), sink_text(report.sinks),
               outlier_text(report, tokenizer));
  }
  return 0;
}

}  // namespace

void add_analyze(CommandLine& line) {
  auto options = std::make_shared<AnalyzeArguments>();
  options->max_tokens = kReferenceTokens;
  Command command = line.command("analyze", "measure a model's activation outliers");
  add_measure_options(command, *options, "read");
  command.add("--bits", options->bits,
              "weights-activations-cache; each 2 to 8, or 16 for none, of the model that runs");
  command
      .add("--sink-tokens", options->sink_tokens,
           "tokens that are searched for attention sinks, in whole batches; 0: none")
      .between(int64_t{0}, int64_t{1} << 40);
  command.runs([options] { return run(*options); });
}

}  // namespace osp
