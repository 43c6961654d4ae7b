#include "osp/ops/log_probabilities.h"

#include <ATen/TensorOperators.h>

namespace osp {

at::Tensor log_probabilities(const at::Tensor& logits) {
  const at::Tensor shifted = logits.sub(logits.amax(-1, true));
  const at::Tensor sum = shifted.exp().sum(-1, true, at::kDouble);
  return shifted.sub(sum.log_().to(logits.scalar_type()));
}

}  // namespace osp
