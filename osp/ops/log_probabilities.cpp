#include "osp/ops/log_probabilities.h"

#include <ATen/TensorOperators.h>

#include <tuple>

namespace osp {
namespace {

// The largest logit of each row and the logarithm of the row's sum in units of it, fp32 [..., 1].
std::tuple<at::Tensor, at::Tensor> largest_and_log_sum(const at::Tensor& logits) {
  const at::Tensor largest = logits.amax(-1, true);
  const at::Tensor sum = logits.sub(largest).exp_().sum(-1, true, at::kDouble);
  return {largest, sum.log_().to(logits.scalar_type())};
}

}  // namespace

at::Tensor log_sums(const at::Tensor& logits) {
  const auto [largest, log_sum] = largest_and_log_sum(logits);
  return largest.add(log_sum).squeeze(-1);
}

at::Tensor log_probabilities(const at::Tensor& logits) {
  const auto [largest, log_sum] = largest_and_log_sum(logits);
  return logits.sub(largest).sub_(log_sum);
}

}  // namespace osp
