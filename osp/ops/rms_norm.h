// RMSNorm and its two relatives over the last dimension of x [..., D]:
//   y = gain · r / sqrt(mean(r²) + eps),   r = x or x + branch
// The gain decides which one: fp32 [1] (SSNorm), [D] (RMSNorm) or undefined (Simple RMSNorm).
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "osp/ops/recomputable_input.h"
#include "osp/ops/weight_ref.h"

namespace osp {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& gain, double eps);
RecomputableInput rms_norm(const at::Tensor& x, const WeightRef& gain, double eps);

// (r, rms_norm(r)) with r = x + branch, in one pass.
std::tuple<at::Tensor, RecomputableInput> add_rms_norm(const at::Tensor& x,
                                                       const at::Tensor& branch,
                                                       const WeightRef& gain, double eps);

// The y that rms_norm gave, to the same bits, from the operands of its result. No gradients.
at::Tensor rms_norm_again(const at::Tensor& residual, const at::Tensor& inverse_rms,
                          const at::Tensor& gain);

}  // namespace osp
