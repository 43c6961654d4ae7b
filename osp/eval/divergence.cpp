#include "osp/eval/divergence.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/eval/perplexity.h"
#include "osp/measure/tap_chain.h"
#include "osp/model/transformer.h"
#include "osp/ops/log_probabilities.h"

namespace osp {
namespace {

constexpr int64_t kRowsAtATime = 256;   // rows of logits that exist at a time
constexpr int64_t kBatchTokens = 8192;  // of one forward pass, at least one window

// Sees the residual stream behind the last block.
class LastStateTap : public Tap {
 public:
  explicit LastStateTap(int64_t layers) : last_(layers - 1) {}

  bool wants(TapPoint point, int64_t layer) const override {
    return point == TapPoint::residual && layer == last_;
  }
  at::Tensor at(TapPoint /*point*/, int64_t /*layer*/, const at::Tensor& x) override {
    return state_ = x;
  }
  const at::Tensor& state() const { return state_; }

 private:
  int64_t last_;
  at::Tensor state_;
};

// Of the tokens of a batch, [tokens, D] each: what the head reads, and the residual stream behind
// the last block, undefined where it was not asked for or an engine ran.
struct FinalStates {
  at::Tensor hidden, last;
};

FinalStates states(const ParameterStore& store, const at::Tensor& inputs, Tap* tap,
                   bool wants_last) {
  ForwardOptions options;
  options.tap = tap;
  LastStateTap last(store.config.layers);
  TapChain both({tap, &last});
  const bool shown = wants_last && (tap == nullptr || tap->engine() == nullptr);
  if (shown) options.tap = &both;
  const at::Tensor hidden = forward_hidden(store, inputs, options).flatten(0, 1);
  return {hidden, shown ? last.state().flatten(0, 1) : at::Tensor()};
}

// The sum over tokens of ‖h' − h‖² / ‖h‖².
double error_sum(const at::Tensor& before, const at::Tensor& after) {
  if (!before.defined() || !after.defined()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (int64_t row = 0; row < before.size(0); row += kRowsAtATime) {
    const int64_t rows = std::min(kRowsAtATime, before.size(0) - row);
    const at::Tensor h = before.narrow(0, row, rows).to(at::kDouble);
    const at::Tensor off = after.narrow(0, row, rows).to(at::kDouble).sub_(h);
    sum += off.square().sum(-1).div_(h.square().sum(-1)).sum().item<double>();
  }
  return sum;
}

// Keeps the states of a batch if those in front of it are kept and there is room.
void keep(const at::Tensor& batch, size_t place, std::vector<at::Tensor>& states) {
  int64_t bytes = static_cast<int64_t>(batch.nbytes());
  for (const at::Tensor& kept : states) bytes += static_cast<int64_t>(kept.nbytes());
  if (states.size() == place && bytes <= kMostStateBytes) states.push_back(batch);
}

double loss_of(const at::Tensor& log_p, const at::Tensor& targets) {
  return -log_p.gather(1, targets.unsqueeze(1)).sum(at::kDouble).item<double>();
}

// The q-quantile by nearest rank; reorders `values`.
double quantile(std::vector<float>& values, double q) {
  const auto rank = static_cast<std::ptrdiff_t>(std::ceil(q * static_cast<double>(values.size())));
  const auto place = values.begin() + std::max<std::ptrdiff_t>(0, rank - 1);
  std::nth_element(values.begin(), place, values.end());
  return *place;
}

}  // namespace

double DivergenceResult::original_perplexity() const { return std::exp(original_loss); }
double DivergenceResult::changed_perplexity() const { return std::exp(changed_loss); }

DivergenceResult measure_divergence(const ParameterStore& original, const ParameterStore& changed,
                                    std::span<const int64_t> tokens,
                                    const DivergenceOptions& options) {
  OSP_CHECK(original.config.vocabulary == changed.config.vocabulary, "vocabularies differ");
  OSP_CHECK(!options.state_error || original.config.width == changed.config.width,
            "states of width {} and {} have no difference", original.config.width,
            changed.config.width);
  // Cut the text into windows.
  const int64_t window =
      options.window > 0 ? options.window : perplexity_window(original.config.context);
  int64_t windows = static_cast<int64_t>(tokens.size()) / window;
  if (windows == 0) {
    fail(ErrorCode::unsupported,
         "the data has {} tokens, less than one window of {}: give a longer text", tokens.size(),
         window);
  }
  if (options.max_tokens > 0) {
    windows = std::clamp<int64_t>(options.max_tokens / window, 1, windows);
  }
  const auto used = tokens.first(static_cast<size_t>(windows * window));
  check_token_ids(used, original.config.vocabulary);
  const at::NoGradGuard no_grad;
  const at::Tensor all =
      at::from_blob(const_cast<int64_t*>(used.data()), {windows, window}, at::kLong);
  DivergenceResult result;
  result.tokens = windows * (window - 1);
  result.window = window;
  result.windows = windows;
  double state_errors = 0;
  std::vector<float> positions;  // the divergence at each
  positions.reserve(static_cast<size_t>(result.tokens));
  const int64_t batch = std::max<int64_t>(1, kBatchTokens / window);
  for (int64_t i = 0; i < windows; i += batch) {
    // Final states of both models.
    const at::Tensor tokens_BW = all.narrow(0, i, std::min(batch, windows - i));
    const at::Tensor inputs = tokens_BW.narrow(1, 0, window - 1).contiguous();
    const at::Tensor targets = tokens_BW.narrow(1, 1, window - 1).flatten();
    const auto place = static_cast<size_t>(i / batch);
    const bool kept = options.original_states != nullptr && options.original_states->size() > place;
    const auto [before, last] =
        kept && !options.state_error
            ? FinalStates{options.original_states->at(place), at::Tensor()}
            : states(original, inputs, options.original_tap, options.state_error);
    if (!kept && options.original_states != nullptr) keep(before, place, *options.original_states);
    const auto [after, changed_last] =
        states(changed, inputs, options.changed_tap, options.state_error);
    if (options.state_error) state_errors += error_sum(last, changed_last);
    // Losses and divergence from the logits, some rows at a time.
    for (int64_t row = 0; row < before.size(0); row += kRowsAtATime) {
      const int64_t rows = std::min(kRowsAtATime, before.size(0) - row);
      const at::Tensor p = log_probabilities(
          logits_of_hidden(original, before.narrow(0, row, rows), options.original_tap));
      const at::Tensor q = log_probabilities(
          logits_of_hidden(changed, after.narrow(0, row, rows), options.changed_tap));
      const at::Tensor wanted = targets.narrow(0, row, rows);
      result.original_loss += loss_of(p, wanted);
      result.changed_loss += loss_of(q, wanted);
      const at::Tensor divergence = p.exp().mul_(p.sub(q)).sum(-1).cpu().contiguous();
      result.divergence += divergence.sum(at::kDouble).item<double>();
      const auto* begin = divergence.const_data_ptr<float>();
      positions.insert(positions.end(), begin, begin + rows);
      result.same_choice += p.argmax(-1).eq(q.argmax(-1)).sum().item<double>();
    }
    if (options.progress) options.progress(i + tokens_BW.size(0), windows);
  }
  // Means and quantiles.
  const double count = static_cast<double>(result.tokens);
  for (double* sum :
       {&result.original_loss, &result.changed_loss, &result.divergence, &result.same_choice}) {
    *sum /= count;
  }
  if (options.state_error) result.state_error = state_errors / count;
  result.divergence_median = quantile(positions, 0.5);
  result.divergence_95 = quantile(positions, 0.95);
  result.divergence_99 = quantile(positions, 0.99);
  return result;
}

}  // namespace osp
