#include "osp/measure/outliers.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <limits>

#include "osp/base/error.h"
#include "osp/measure/tap_chain.h"
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

// Rows [first, first + count) and positions [0, length) on the model's device; undefined stays so.
at::Tensor part_of(const at::Tensor& x_BT, int64_t first, int64_t count, int64_t length,
                   const ParameterStore& store) {
  if (!x_BT.defined()) return {};
  const at::Tensor part = x_BT.narrow(0, first, count).narrow(1, 0, length);
  return part.contiguous().to(store.banks.front().master.device());
}

void run_with_tap(const ParameterStore& store, const at::Tensor& tokens_BT,
                  const at::Tensor& documents_BT, Tap& tap) {
  ForwardOptions options;
  options.tap = &tap;
  options.documents_BT = documents_BT;
  forward_hidden(store, tokens_BT, options);
}

// Every sequence as it is: kurtosis, largest activation, histograms and, with targets, the loss.
void measure_in_context(const ParameterStore& store, const at::Tensor& tokens_BT,
                        const OutlierOptions& options, OutlierReport& report) {
  const int64_t sequences = tokens_BT.size(0), length = tokens_BT.size(1);
  const int64_t batch = std::max<int64_t>(1, options.batch_tokens / length);
  // The quantizers come behind the taps that watch what they get, and before the sinks, which are
  // measured as the model computes them.
  OutlierTap tap(store.config.layers, options.histograms);
  AttentionSinkTap sinks(store.config, learned_sinks(store));
  ExpertTap experts(store);
  TapChain chain(
      {&tap, options.watcher, options.quantizers, &sinks, options.histograms ? &experts : nullptr});
  int64_t sink_sequences = length < 4 ? 0 : (options.sink_tokens + length - 1) / length;
  double loss_sum = 0.0;
  for (int64_t first = 0; first < sequences; first += batch) {
    const int64_t count = std::min(batch, sequences - first);
    const at::Tensor tokens = part_of(tokens_BT, first, count, length, store);
    const at::Tensor targets = part_of(options.targets_BT, first, count, length, store);
    // Tell the taps which tokens come.
    ForwardOptions forward;
    forward.tap = &chain;
    forward.documents_BT = part_of(options.documents_BT, first, count, length, store);
    tap.begin(tokens, first);
    if (sink_sequences > 0) {
      sinks.begin(tokens);
      sink_sequences -= count;
    } else {
      sinks.skip();
    }
    // Run the model.
    if (targets.defined()) {
      loss_sum += forward_loss_sum(store, tokens, targets, forward).item<double>();
    } else {
      forward_hidden(store, tokens, forward);
    }
    if (options.progress) options.progress((first + count) * length, tokens_BT.numel());
  }
  // Report.
  report.loss = kNaN;
  if (options.targets_BT.defined()) {
    report.loss = loss_sum / options.targets_BT.ge(0).sum().item<double>();
  }
  report.mean = mean_over_states(tap.kurtosis(), report.per_layer);
  report.largest = tap.largest();
  report.points = tap.points();
  if (options.histograms) report.experts = experts.experts();
  report.sinks = sinks.sinks();
}

// A state in a sequence of length 1 is a function of the token alone: each different token is run
// once and weighs as often as it occurs.
void measure_clipped(const ParameterStore& store, const at::Tensor& tokens_BT,
                     const OutlierOptions& options, OutlierReport& report) {
  // Count the tokens.
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
  // Run each different token once.
  ClippedKurtosisTap tap(store.config.layers, options.histograms);
  TapChain chain({&tap, options.quantizers});
  const int64_t count = static_cast<int64_t>(different.size());
  for (int64_t first = 0; first < count; first += options.batch_tokens) {
    const int64_t rows = std::min(options.batch_tokens, count - first);
    tap.begin({weights.begin() + first, weights.begin() + first + rows});
    const at::Tensor ids_B1 = at::from_blob(different.data() + first, {rows, 1}, at::kLong);
    run_with_tap(store, part_of(ids_B1, 0, rows, 1, store), {}, chain);
  }
  report.clipped_mean = mean_over_states(tap.kurtosis(), report.clipped_per_layer);
  report.single_token_points = tap.points();
}

void measure_attention(const ParameterStore& store, const at::Tensor& tokens_BT,
                       const OutlierOptions& options, OutlierReport& report) {
  AttentionLogitTap tap;
  TapChain chain({options.quantizers, &tap});
  const int64_t sequences = std::min(options.attention_sequences, tokens_BT.size(0));
  const int64_t length = std::min(options.attention_length, tokens_BT.size(1));
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    const at::Tensor documents = part_of(options.documents_BT, sequence, 1, length, store);
    tap.begin(documents);
    run_with_tap(store, part_of(tokens_BT, sequence, 1, length, store), documents, chain);
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
  OSP_CHECK(options.sink_tokens == 0 || !options.documents_BT.defined(),
            "sinks are measured without a document mask");
  for (const at::Tensor& same : {options.documents_BT, options.targets_BT}) {
    OSP_CHECK(!same.defined() || same.sizes() == tokens.sizes(), "documents, targets [B, T]");
  }
  OutlierReport report;
  report.tokens = tokens.numel();
  measure_in_context(store, tokens, options, report);
  report.clipped_mean = report.largest_attention_logit = kNaN;
  if (options.clipped) measure_clipped(store, tokens, options, report);
  if (options.attention_sequences > 0) measure_attention(store, tokens, options, report);
  return report;
}

}  // namespace osp
