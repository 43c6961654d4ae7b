#include "osp/ops/recompute.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "osp/base/error.h"

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldFunction : torch::CustomClassHolder {
  TensorFunction run;
};

// Autograd takes tensors one by one, not in a list.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& first,
                               const std::optional<at::Tensor>& second,
                               const c10::intrusive_ptr<HeldFunction>& function) {
    ctx->set_materialize_grads(false);
    variable_list inputs = {first};
    if (second) inputs.push_back(*second);
    ctx->save_for_backward(inputs);
    ctx->saved_data["function"] = c10::IValue::make_capsule(function);
    return function->run(inputs);
  }

  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto holder = ctx->saved_data["function"].toCapsule();
    variable_list inputs, outputs, gradients, d_inputs;
    for (const at::Tensor& kept : ctx->get_saved_variables()) {
      inputs.push_back(kept.detach().requires_grad_(true));
    }
    const at::AutoGradMode with_graph(true);
    const variable_list all = static_cast<const HeldFunction&>(*holder).run(inputs);
    for (size_t i = 0; i < all.size(); ++i) {
      if (!d[i].defined()) continue;
      outputs.push_back(all[i]);
      gradients.push_back(d[i]);
    }
    torch::autograd::backward(outputs, gradients);
    for (const at::Tensor& input : inputs) d_inputs.push_back(input.grad());
    d_inputs.resize(3);  // autograd also expects one for an absent second input and the function
    return d_inputs;
  }
};

}  // namespace

std::vector<at::Tensor> recomputed(const std::vector<at::Tensor>& inputs,
                                   const TensorFunction& function) {
  OSP_CHECK(inputs.size() == 1 || inputs.size() == 2, "{} tensors", inputs.size());
  if (!at::GradMode::is_enabled()) return function(inputs);
  OSP_CHECK(inputs[0].requires_grad() || inputs.back().requires_grad(),
            "nothing to differentiate: no input has a graph");
  auto held = c10::make_intrusive<HeldFunction>();
  held->run = function;
  const auto second = inputs.size() == 2 ? std::optional(inputs[1]) : std::nullopt;
  return Recomputed::apply(inputs[0], second, held);
}

}  // namespace osp
