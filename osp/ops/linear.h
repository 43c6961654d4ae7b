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

// x [..., in] · Wᵀ without a graph and by whatever product is fastest: as exact as that of
// linear(), with other bits. Of many fp32 rows on CPUs with AVX-512 it is oneDNN's, because MKL, to
// which at::mm goes, keeps to AVX2 on CPUs that are not Intel's.
at::Tensor fast_linear(const at::Tensor& x, const at::Tensor& w);

}  // namespace osp
