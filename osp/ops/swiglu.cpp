#include "osp/ops/swiglu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/silu.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "osp/ops/dispatch.h"

namespace osp {

at::Tensor swiglu_reference(const at::Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  RECORD_USER_SCOPE("osp::swiglu");
  const int64_t F = gate_up.size(-1) / 2, rows = gate_up.numel() / (2 * F);
  auto shape = gate_up.sizes().vec();
  shape.back() = F;
  at::Tensor out = at::empty(shape, gate_up.options());
  dispatch(gate_up, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, rows, row_grain(F), [&](int64_t begin, int64_t end) {
      k.swiglu_forward(data<T>(gate_up) + begin * 2 * F, mutable_data<T>(out) + begin * F,
                       end - begin, F);
    });
  });
  return out;
}

struct Swiglu : torch::autograd::Function<Swiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    return swiglu_forward(gate_up);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    return {swiglu_backward(ctx->get_saved_variables()[0], d[0].contiguous(), {})};
  }
};

}  // namespace

RecomputableInput swiglu(const at::Tensor& gate_up) {
  if (!has_kernels(gate_up)) return swiglu_reference(gate_up);
  const at::Tensor whole = gate_up.contiguous();
  return {Swiglu::apply(whole), RecomputableInput::Origin::swiglu, {whole}};
}

at::Tensor swiglu_backward(const at::Tensor& gate_up, const at::Tensor& d_out, at::Tensor out) {
  RECORD_USER_SCOPE("osp::swiglu_backward");
  const int64_t F = d_out.size(-1), rows = d_out.numel() / F;
  at::Tensor d_gate_up = at::empty_like(gate_up);
  dispatch(gate_up, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, rows, row_grain(F), [&](int64_t begin, int64_t end) {
      k.swiglu_backward(data<T>(gate_up) + begin * 2 * F, data<T>(d_out) + begin * F,
                        mutable_data<T>(d_gate_up) + begin * 2 * F,
                        out.defined() ? mutable_data<T>(out) + begin * F : nullptr, end - begin, F);
    });
  });
  return d_gate_up;
}

}  // namespace osp
