// LayerNorm and the activations of networks without SwiGLU: models that osp reads, quantizes and
// runs. Operators of the tensor library, differentiable; the paper's models do not use them.
//
// Tested by tests/python/test_families.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "osp/ops/weight_ref.h"

namespace osp {

// y = gain · (x − mean) / sqrt(variance + eps) + bias over the last dimension of x [..., D], in
// fp32 (fp64 for fp64 x), returned in x's type. gain, bias: fp32 [D] or undefined; their gradients
// are added into .gradient if `anchor` is defined (see embedding()).
at::Tensor layer_norm(const at::Tensor& x, const WeightRef& gain, const WeightRef& bias, double eps,
                      const at::Tensor& anchor);

// "silu", "relu", "relu2" (its square), "gelu" (by the error function) or "gelu_tanh" (its
// approximation by tanh).
at::Tensor activation(const at::Tensor& x, const std::string& name);

}  // namespace osp
