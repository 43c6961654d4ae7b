#include "osp/measure/outliers.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <limits>

#include "osp/base/error.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double mean_over_states(const std::vector<KurtosisMean>& states, std::vector<double>& per_layer) {
  double sum = 0.0;
  for (const KurtosisMean& state : states) {
    per_layer.push_back(state.mean());
    sum += state.mean();
  }
  return sum / static_cast<double>(states.size());
}

void run_with_tap(const ParameterStore& store, const at::Tensor& tokens_BT, Tap& tap) {
  ForwardOptions options;
  options.tap = &tap;
  forward_hidden(store, tokens_BT.to(store.banks.front().master.device()), options);
}

// A state in a sequence of length 1 is a function of the token alone: each different token is run
// once and weighs as often as it occurs.
void measure_clipped(const ParameterStore& store, const at::Tensor& tokens_BT,
                     const OutlierOptions& options, OutlierReport& report) {
  std::vector<double> occurrences(static_cast<size_t>(store.config.vocabulary));
  const int64_t* ids = tokens_BT.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens_BT.numel(); ++i) ++occurrences[static_cast<size_t>(ids[i])];
  std::vector<int64_t> different;
  std::vector<double> weights;
  for (size_t id = 0; id < occurrences.size(); ++id) {
    if (occurrences[id] == 0.0) continue;
    different.push_back(static_cast<int64_t>(id));
    weights.push_back(occurrences[id]);
  }
  ClippedKurtosisTap tap(store.config.layers);
  const int64_t count = static_cast<int64_t>(different.size());
  for (int64_t first = 0; first < count; first += options.batch_tokens) {
    const int64_t rows = std::min(options.batch_tokens, count - first);
    tap.begin({weights.begin() + first, weights.begin() + first + rows});
    run_with_tap(store, at::from_blob(different.data() + first, {rows, 1}, at::kLong), tap);
  }
  report.clipped_mean = mean_over_states(tap.kurtosis(), report.clipped_per_layer);
}

void measure_attention(const ParameterStore& store, const at::Tensor& tokens_BT,
                       const OutlierOptions& options, OutlierReport& report) {
  AttentionLogitTap tap;
  const int64_t sequences = std::min(options.attention_sequences, tokens_BT.size(0));
  const int64_t length = std::min(options.attention_length, tokens_BT.size(1));
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    run_with_tap(store, tokens_BT.narrow(0, sequence, 1).narrow(1, 0, length).contiguous(), tap);
  }
  report.largest_attention_logit = tap.largest();
  report.attention_layer = tap.layer();
  report.attention_head = tap.head();
}

}  // namespace

OutlierReport measure_outliers(const ParameterStore& store, const at::Tensor& tokens_BT,
                               const OutlierOptions& options) {
  OSP_CHECK(tokens_BT.dim() == 2 && tokens_BT.numel() > 0, "tokens [B, T] expected");
  const at::NoGradGuard no_grad;
  const at::Tensor tokens = tokens_BT.to(at::kCPU, at::kLong).contiguous();
  const int64_t sequences = tokens.size(0), length = tokens.size(1);
  const int64_t batch = std::max<int64_t>(1, options.batch_tokens / length);
  OutlierTap tap(store.config.layers, options.histograms);
  for (int64_t first = 0; first < sequences; first += batch) {
    const at::Tensor part = tokens.narrow(0, first, std::min(batch, sequences - first));
    tap.begin(part, first);
    run_with_tap(store, part, tap);
    if (options.progress) options.progress((first + part.size(0)) * length, tokens.numel());
  }
  OutlierReport report;
  report.tokens = tokens.numel();
  report.mean = mean_over_states(tap.kurtosis(), report.per_layer);
  report.largest = tap.largest();
  report.points = tap.points();
  report.clipped_mean = report.largest_attention_logit = kNaN;
  if (options.clipped) measure_clipped(store, tokens, options, report);
  if (options.attention_sequences > 0) measure_attention(store, tokens, options, report);
  return report;
}

}  // namespace osp
