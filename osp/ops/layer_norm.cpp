#include "osp/ops/layer_norm.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>

#include <optional>

#include "osp/base/error.h"

namespace osp {
namespace {

std::optional<at::Tensor> operand(const WeightRef& weight, at::ScalarType type,
                                  const at::Tensor& anchor) {
  if (!weight.value.defined()) return std::nullopt;
  return (anchor.defined() ? weight_leaf(weight, anchor) : weight.value).to(type);
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, const WeightRef& gain, const WeightRef& bias, double eps,
                      const at::Tensor& anchor) {
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::layer_norm(x.to(wide), {x.size(-1)}, operand(gain, wide, anchor),
                        operand(bias, wide, anchor), eps)
      .to(x.scalar_type());
}

at::Tensor activation(const at::Tensor& x, const std::string& name) {
  if (name == "silu") return at::silu(x);
  if (name == "relu") return at::relu(x);
  if (name == "relu2") return at::relu(x).square();
  OSP_CHECK(name == "gelu" || name == "gelu_tanh", "activation {}", name);
  return at::gelu(x, name == "gelu" ? "none" : "tanh");
}

}  // namespace osp
