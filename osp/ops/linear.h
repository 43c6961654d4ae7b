// The product of a linear layer. It has no twin: the product is the tensor library's, in the
// compute type.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/ops/recomputable_input.h"
#include "osp/ops/weight_ref.h"

namespace osp {

// x [..., in] · Wᵀ for W [out, in]; the gradient of W is added into weight.gradient. Until the
// backward pass it keeps x, or the operands that x is computed from.
at::Tensor linear(const RecomputableInput& x, const WeightRef& weight);

}  // namespace osp
