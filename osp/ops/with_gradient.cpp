#include "osp/ops/with_gradient.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct HeldBackward : torch::CustomClassHolder {
  std::function<at::Tensor(const at::Tensor&)> run;
};

struct WithGradient : torch::autograd::Function<WithGradient> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*x*/, const at::Tensor& y,
                            const c10::intrusive_ptr<HeldBackward>& backward) {
    ctx->saved_data["backward"] = c10::IValue::make_capsule(backward);
    return y.detach();
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto holder = ctx->saved_data["backward"].toCapsule();
    return {static_cast<const HeldBackward&>(*holder).run(d[0]), {}, {}};
  }
};

}  // namespace

at::Tensor with_gradient(const at::Tensor& x, const at::Tensor& y,
                         std::function<at::Tensor(const at::Tensor& dy)> backward) {
  if (!at::GradMode::is_enabled() || !x.requires_grad()) return y;
  auto holder = c10::make_intrusive<HeldBackward>();
  holder->run = std::move(backward);
  return WithGradient::apply(x, y, holder);
}

}  // namespace osp
