// The trained scalar on a residual branch of the Outlier Protected block (He et al. 2024,
// arXiv 2405.19279): x + β · f(x).
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/ops/weight_ref.h"

namespace osp {

// y = β x for x [..., T, D] and β [1] in fp32 (or x's type, fp64), y in x's type: each product is
// fp32 and rounded once. Differentiable in x; dβ = Σ dy · x is added in fp32 into scale.gradient,
// in the same order whatever the number of threads.
at::Tensor scale_branch(const at::Tensor& x, const WeightRef& scale);

}  // namespace osp
