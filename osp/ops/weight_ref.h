// A weight as an operator sees it. Weight gradients do not pass through the graph: they are added
// in fp32 into the tensor that the caller gives, so micro-batches never accumulate in bf16.
//
// Tested by osp/ops/rms_norm_test.cpp and osp/ops/linear_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

namespace osp {

// The values in the compute type, and the fp32 tensor that their gradient is added to (undefined:
// not wanted).
struct WeightRef {
  at::Tensor value;
  at::Tensor gradient;
};

// A weight as a differentiable tensor whose gradient is added into weight.gradient: the general
// path for taps that replace weights. `anchor` is any tensor that requires grad.
at::Tensor weight_leaf(const WeightRef& weight, const at::Tensor& anchor);

// sum += x elementwise, sum fp32, both contiguous and of equal size; x float or bfloat16.
void accumulate(const at::Tensor& sum, const at::Tensor& x);

}  // namespace osp
