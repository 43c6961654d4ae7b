#include "osp/eval/perplexity.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

constexpr int64_t kLongestWindow = 2048;
constexpr int64_t kNotScored = -1;  // target that forward_loss_sum skips

}  // namespace

void check_token_ids(std::span<const int64_t> tokens, int64_t vocabulary) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary) {
      fail(ErrorCode::damaged,
           "token {} of the data is {}, the model's vocabulary has {}: the data was made with "
           "another tokenizer; tokenize it with the model's",
           i, tokens[i], vocabulary);
    }
  }
}

int64_t perplexity_window(int64_t trained_context) {
  return std::min(kLongestWindow, trained_context);
}

PerplexityResult measure_perplexity(const ParameterStore& store, std::span<const int64_t> tokens,
                                    const PerplexityOptions& options) {
  // Settle the window, the stride and the number of windows.
  const int64_t window =
      options.window > 0 ? options.window : perplexity_window(store.config.context);
  OSP_CHECK(window >= 2, "a window of {} tokens has nothing to score", window);
  const int64_t stride = options.stride > 0 ? options.stride : window;
  if (stride > window) {
    fail(ErrorCode::usage,
         "a stride of {} tokens leaves a gap between windows of {}: give at most the window",
         stride, window);
  }
  const int64_t available = static_cast<int64_t>(tokens.size());
  if (available < window) {
    fail(ErrorCode::unsupported,
         "the data has {} tokens, less than one window of {} (the smaller of {} and the trained "
         "context): give a longer text",
         tokens.size(), window, kLongestWindow);
  }
  int64_t num_windows = (available - window) / stride + 1;
  if (options.max_tokens > 0) {
    const int64_t limit = std::max<int64_t>(0, options.max_tokens - window) / stride + 1;
    num_windows = std::min(limit, num_windows);
  }
  const auto used = tokens.first(static_cast<size_t>((num_windows - 1) * stride + window));
  check_token_ids(used, store.config.vocabulary);

  // Sum the losses over batches of windows.
  const auto start = std::chrono::steady_clock::now();
  const at::NoGradGuard no_grad;
  const at::Device device = store.banks.front().master.device();
  const at::Tensor tokens_NW = at::from_blob(const_cast<int64_t*>(used.data()),
                                             {num_windows, window}, {stride, 1}, at::kLong);
  const int64_t batch = std::max<int64_t>(1, options.batch_tokens / window);
  ForwardOptions forward;
  forward.tap = options.tap;
  double loss_sum = 0.0;
  for (int64_t first = 0; first < num_windows; first += batch) {
    const int64_t count = std::min(batch, num_windows - first);
    const at::Tensor tokens_BW = tokens_NW.narrow(0, first, count).contiguous().to(device);
    // The last token of a window is a target only.
    const at::Tensor inputs = tokens_BW.narrow(1, 0, window - 1).contiguous();
    const at::Tensor targets = tokens_BW.narrow(1, 1, window - 1).clone();
    if (stride < window) {  // skip the targets that the window before has scored
      const int64_t from = first == 0 ? 1 : 0;
      targets.narrow(0, from, count - from).narrow(1, 0, window - 1 - stride).fill_(kNotScored);
    }
    loss_sum += forward_loss_sum(store, inputs, targets, forward).item<double>();
    if (options.progress) options.progress(first + count, num_windows);
  }
  PerplexityResult result;
  result.window = window;
  result.stride = stride;
  result.windows = num_windows;
  result.tokens =
      stride == window ? num_windows * (window - 1) : window - 1 + (num_windows - 1) * stride;
  result.loss = loss_sum / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.loss);
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace osp
