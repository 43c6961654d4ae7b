#include "osp/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "osp/base/error.h"

namespace osp {
namespace {

// Index of the largest logit, the first of equals.
int32_t most_likely(std::span<const float> logits) {
  const auto place = std::max_element(logits.begin(), logits.end());
  return static_cast<int32_t>(place - logits.begin());
}

void check_finite(std::span<const float> logits) {
  bool any = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == INFINITY) {
      fail(ErrorCode::damaged, "the model's logit of token {} is {}: its weights are not finite", i,
           logits[i]);
    }
    any = any || std::isfinite(logits[i]);
  }
  if (!any) fail(ErrorCode::damaged, "none of the model's {} logits is finite", logits.size());
}

}  // namespace

void check_sampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0) || !std::isfinite(options.temperature)) {
    fail(ErrorCode::usage, "temperature is {}, expected a number from 0", options.temperature);
  }
  if (options.top_k < 0) {
    fail(ErrorCode::usage, "top-k is {}, expected a count, or 0 for all tokens", options.top_k);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    fail(ErrorCode::usage, "top-p is {}, expected a number above 0 and up to 1", options.top_p);
  }
  if (!(options.min_p >= 0 && options.min_p <= 1)) {
    fail(ErrorCode::usage, "min-p is {}, expected a number from 0 to 1", options.min_p);
  }
}

int32_t sample_token(std::span<const float> logits, const SamplingOptions& options,
                     double uniform) {
  check_finite(logits);
  if (options.temperature == 0 || options.top_k == 1) return most_likely(logits);

  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto more_likely = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (options.top_k > 0 && options.top_k < static_cast<int64_t>(ids.size())) {
    std::partial_sort(ids.begin(), ids.begin() + options.top_k, ids.end(), more_likely);
    ids.resize(static_cast<size_t>(options.top_k));
  } else {
    std::sort(ids.begin(), ids.end(), more_likely);
  }

  std::vector<double> weights(ids.size());  // exp of (logit − largest) / temperature
  const double largest = logits[ids[0]];
  for (size_t i = 0; i < ids.size(); ++i) {
    weights[i] = std::exp((logits[ids[i]] - largest) / options.temperature);
  }
  // The most likely token has weight 1.
  const auto below = std::find_if(weights.begin(), weights.end(),
                                  [&](double weight) { return weight < options.min_p; });
  weights.erase(below, weights.end());
  ids.resize(weights.size());
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (options.top_p < 1) {
    double kept = 0;
    size_t count = 0;
    while (count < weights.size() && kept < options.top_p * total) kept += weights[count++];
    ids.resize(count);
    total = kept;
  }

  double left = uniform * total;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    if (left < weights[i]) return ids[i];
    left -= weights[i];
  }
  return ids.back();
}

}  // namespace osp
