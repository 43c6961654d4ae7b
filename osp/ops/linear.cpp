#include "osp/ops/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <string_view>

#include "osp/ops/isa.h"
#include "osp/ops/rms_norm.h"
#include "osp/ops/swiglu.h"

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Two-dimensional view of a tensor's last dimension.
at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// x Wᵀ, in the shape of x but for the last dimension.
at::Tensor product(const at::Tensor& x, const at::Tensor& w) {
  auto shape = x.sizes().vec();
  shape.back() = w.size(0);
  return at::mm(rows_of(x), w.t()).view(shape);
}

// The gradient of a product's x, in its shape.
at::Tensor product_backward(const at::Tensor& dy, const at::Tensor& w) {
  auto shape = dy.sizes().vec();
  shape.back() = w.size(1);
  return at::mm(rows_of(dy), w).view(shape);
}

void accumulate_product(const at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x) {
  if (gradient.defined()) accumulate(gradient, at::mm(rows_of(dy).t(), rows_of(x)));
}

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const WeightRef& weight) {
    ctx->save_for_backward({x, weight.value});
    ctx->saved_data["gradient"] = weight.gradient;
    return product(x, weight.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto kept = ctx->get_saved_variables();
    accumulate_product(ctx->saved_data["gradient"].toTensor(), d[0], kept[0]);
    return {product_backward(d[0], kept[1]), {}};
  }
};

// The operands that a norm's result is recomputed from. In a struct, so that autograd does not take
// them for inputs.
struct NormOperands {
  at::Tensor residual, inverse_rms, gain;
};

// linear(x) where x is the result of a norm, which is not kept.
struct LinearOfNorm : torch::autograd::Function<LinearOfNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const NormOperands& of,
                            const WeightRef& weight) {
    ctx->save_for_backward({of.residual, of.inverse_rms, of.gain, weight.value});
    ctx->saved_data["gradient"] = weight.gradient;
    return product(x, weight.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto kept = ctx->get_saved_variables();
    accumulate_product(ctx->saved_data["gradient"].toTensor(), d[0],
                       rms_norm_again(kept[0], kept[1], kept[2]));
    return {product_backward(d[0], kept[3]), {}, {}};
  }
};

// The result of swiglu, in a struct so that autograd does not take it for an input.
struct SwigluResult {
  at::Tensor value;
};

// linear(swiglu(gate_up)): one pass of the backward gives the gradient of gate_up and the linear
// layer's input again.
struct LinearOfSwiglu : torch::autograd::Function<LinearOfSwiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up, const SwigluResult& x,
                            const WeightRef& weight) {
    ctx->save_for_backward({gate_up, weight.value});
    ctx->saved_data["gradient"] = weight.gradient;
    return product(x.value, weight.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto kept = ctx->get_saved_variables();
    const at::Tensor d_x = product_backward(d[0], kept[1]), x = at::empty_like(d_x);
    const at::Tensor d_gate_up = swiglu_backward(kept[0], d_x, x);
    accumulate_product(ctx->saved_data["gradient"].toTensor(), d[0], x);
    return {d_gate_up, {}, {}};
  }
};

// Fewest rows for which oneDNN's product, which packs the weight at every call, is the faster one.
constexpr int64_t kManyRows = 128;

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view,
                                   c10::List<std::optional<at::Scalar>>,
                                   std::optional<std::string_view>);

// x Wᵀ of fp32 matrices by oneDNN; undefined where the tensor library was built without it.
at::Tensor onednn_product(const at::Tensor& x, const at::Tensor& w) {
  static const auto kFound =
      c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
  if (!kFound) return {};
  static const auto kProduct = kFound->typed<LinearPointwise>();
  return kProduct.call(x, w, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

}  // namespace

at::Tensor fast_linear(const at::Tensor& x, const at::Tensor& w) {
  const at::Tensor rows = rows_of(x);
  at::Tensor y;
  if (x.is_cpu() && x.scalar_type() == at::kFloat && w.scalar_type() == at::kFloat &&
      rows.size(0) >= kManyRows && active_isa() >= Isa::avx512) {
    y = onednn_product(rows.contiguous(), w.contiguous());
  }
  if (!y.defined()) return product(x, w);
  auto shape = x.sizes().vec();
  shape.back() = w.size(0);
  return y.view(shape);
}

at::Tensor linear(const RecomputableInput& x, const WeightRef& weight) {
  const auto& of = x.operands;
  switch (x.origin) {
    case RecomputableInput::Origin::rms_norm:
      return LinearOfNorm::apply(x.value, NormOperands{of[0], of[1], of[2]}, weight);
    case RecomputableInput::Origin::swiglu:
      return LinearOfSwiglu::apply(of[0], SwigluResult{x.value}, weight);
    default:
      return Linear::apply(x.value, weight);
  }
}

}  // namespace osp
