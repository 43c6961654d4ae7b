// The output head's product and its cross-entropy in chunks of rows, so that the logits of a whole
// batch never exist.
//
// Shapes: N tokens (B·T), D width, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/ops/weight_ref.h"

namespace osp {

// Σ −log softmax(h · Wᵀ)[target] over rows of h [N, D] with target ≥ 0, W [V, D], as an
// fp32 scalar.
at::Tensor linear_cross_entropy_reference(const at::Tensor& h_ND, const at::Tensor& weight,
                                          const at::Tensor& targets_N);

// with_gradient also computes the gradients of `loss_scale` · sum on the way, that of W into
// weight.gradient; the incoming gradient must then be 1. `softcap` c > 0: the logits are
// c · tanh(h · Wᵀ / c).
at::Tensor linear_cross_entropy(const at::Tensor& h_ND, const WeightRef& weight,
                                const at::Tensor& targets_N, double loss_scale, bool with_gradient,
                                double softcap = 0.0);

}  // namespace osp
