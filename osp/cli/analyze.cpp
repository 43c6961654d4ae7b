// osp analyze: whether a model has activation outliers, where they are and how large.
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "osp/base/error.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/diagnose/cost_report.h"
#include "osp/eval/expert_summary.h"
#include "osp/eval/outlier_summary.h"
#include "osp/eval/perplexity.h"
#include "osp/eval/point_summary.h"
#include "osp/eval/sink_summary.h"
#include "osp/eval/token_source.h"
#include "osp/eval/weight_summary.h"
#include "osp/model/model_dir.h"
#include "osp/ops/result_origin.h"

namespace osp {
namespace {

// The reference's script measures as many.
constexpr int64_t kReferenceTokens = 128 * 2048;

// Enough for shares to settle to a percent; logits cost T² where everything else costs T.
constexpr int64_t kSinkTokens = 16384;

constexpr int64_t kNoiseBits = 4;  // the width that the project is about

struct AnalyzeCommand {
  CommonOptions common;
  std::string model, data;
  int64_t data_tokens = kReferenceTokens;
  std::string bits;
  int64_t sink_tokens = kSinkTokens;
  CostOptions cost;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    visit.group("Data");
    visit("data", self.data,
          "token shards (their validation split), or a file of text, JSON lines or Parquet, read "
          "in windows of the model's context, at most 2048 tokens; s3://BUCKET/KEY and "
          "gs://BUCKET/KEY name those of an object store",
          {.value = "PATH", .required = true});
    visit("data_tokens", self.data_tokens, Range{0, 1099511627776.0},
          "number of tokens at the start of --data to read, in whole windows; 0 = all",
          {.formerly = "max_tokens"});
    visit.group("Analysis");
    visit_bits(visit, self.bits);
    visit("sink_tokens", self.sink_tokens, Range{0, 1099511627776.0},
          "number of tokens to search for attention sinks, in whole sequences; 0 = none");
    CostOptions::fields(visit, self.cost);
    CommonOptions::fields(visit, self.common);
  }
};

// Why the cost of few bits is not measured; "" if it is.
std::string why_no_cost(const AnalyzeCommand& options, const BitWidths& bits) {
  if (options.cost.tokens == 0) return "--cost-tokens is 0";
  if (bits != BitWidths{}) {
    return fmt::format("the model runs at {}; analyze the model at 16 bits that it was made from",
                       bits.text());
  }
  return "";
}

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

int run(const AnalyzeCommand& options) {
  // Report a mistake before anything is read.
  check_bits(options.common, options.bits);
  if (parse_bits(options.cost.bits) == BitWidths{}) {
    fail(ErrorCode::usage, "--cost-bits {}: nothing is rounded; give fewer bits",
         options.cost.bits);
  }
  if (parse_bits(options.cost.bits).any_float()) {
    fail(ErrorCode::usage,
         "--cost-bits {}: the noise of every point is that of integer grids; "
         "`osp eval --tax --bits` measures floating-point formats",
         options.cost.bits);
  }
  Console console(options.common.quiet);
  const std::string dir = find_model_dir(options.model);
  const auto loaded = load_model_at(dir, options.bits);
  if (const std::string reason = why_no_cost(options, loaded->bits); !reason.empty()) {
    refuse_given(options.common, {"cost_bits", "attribution_tokens", "rotations"},
                 "is for the cost of few bits, which is not measured (" + reason + ")");
    if (options.cost.tokens > 0) {
      refuse_given(options.common, {"cost_tokens"},
                   "the cost of few bits is not measured (" + reason + ")");
    }
  }
  const std::string before = rounded_before(dir);
  note_rounded_before(options.model, before, console);
  const ParameterStore& store = loaded->model.store;
  TokenSource source = read_token_source(options.data, dir, options.data_tokens);
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
  const std::vector<WeightSummary> weights = summarize_weights(store, kNoiseBits);
  console.end_status();
  // The cost of few bits; it takes the model.
  std::optional<CostReport> cost;
  std::string no_cost = why_no_cost(options, loaded->bits);
  const int64_t window = perplexity_window(store.config.context);
  if (no_cost.empty() && tokens_BT.size(1) < window) {
    no_cost = fmt::format("the text has {} tokens, fewer than one window of {}",
                          format_count(tokens_BT.size(1)), format_count(window));
  }
  if (no_cost.empty()) {
    CostOptions wanted = options.cost;
    std::map<std::string, std::function<void(int64_t, int64_t)>> lines;
    wanted.progress = [&](const std::string& phase, int64_t done, int64_t total) {
      auto& line = lines[phase];
      if (!line) line = progress_line(console, phase, "measurements");
      line(done, total);
    };
    const at::Tensor measured = tokens_BT.flatten();
    cost = measure_cost(std::move(loaded->model.store),
                        {measured.const_data_ptr<int64_t>(), size_t(measured.numel())}, wanted);
    console.end_status();
  }

  const Tokenizer* tokenizer = source.tokenizer ? &*source.tokenizer : nullptr;
  const auto result_json = [&] {
    Json json;
    record_origin(json);
    json["model"] = options.model;
    json["data"] = options.data;
    add_rounded_before(json, before);
    json["bits"] = loaded->bits.text();
    json.update(outlier_json(report, tokenizer));
    const SpelledData data{source.tokens, tokens_BT.size(1), tokenizer};
    json.update(point_json(report, noise.noise(), data));
    if (!report.experts.empty()) json["experts"] = expert_json(report.experts);
    json["weights"] = weight_json(weights);
    json["noise_bits"] = kNoiseBits;
    json["quantization_verdict"] = point_verdict(noise.noise());
    json["verdict"] = outlier_verdict(report);
    json["attention_sinks"] = sink_json(report.sinks, tokenizer);
    json["cost"] = cost ? cost_json(*cost) : Json{{"not_measured", no_cost}};
    return json;
  };
  print_result(options.common, result_json, [&] {
    print_out("{}\n", cost ? cost_text(*cost)
                           : fmt::format("Cost of few bits: not measured: {}\n", no_cost));
    const std::string experts = expert_text(report.experts);
    print_out("{}\n{}{}{}\n{}", point_text(report, noise.noise()), experts,
              experts.empty() ? "" : "\n", sink_text(report.sinks),
              outlier_text(report, tokenizer));
  });
  return 0;
}

}  // namespace

void add_analyze(CommandLine& line) {
  line.command<AnalyzeCommand>("analyze", "measure the activation outliers of a model", run);
}

}  // namespace osp
