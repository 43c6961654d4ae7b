// SwiGLU: silu(gate) · up for gate_up [..., 2F] = [gate | up].
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/ops/recomputable_input.h"

namespace osp {

at::Tensor swiglu_reference(const at::Tensor& gate_up);
RecomputableInput swiglu(const at::Tensor& gate_up);

// The gradient of [gate | up] for the gradient d_out [..., F] of the result. `out`, if defined,
// receives the result itself again, to the same bits.
at::Tensor swiglu_backward(const at::Tensor& gate_up, const at::Tensor& d_out, at::Tensor out);

}  // namespace osp
