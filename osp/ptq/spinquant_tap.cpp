#include "osp/ptq/spinquant_tap.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/ptq/rotation_family.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

constexpr OnlineTransforms kNone{.query_key_hadamard = false, .down_hadamard = false};

// y with the gradient of x.
at::Tensor straight_through(const at::Tensor& x, const at::Tensor& y) {
  return x + (y - x).detach();
}

// x · Q over blocks of the last dimension.
at::Tensor rotate_heads(const at::Tensor& x, const at::Tensor& q) {
  return at::matmul(x.reshape({x.size(0), -1, q.size(0)}), q).reshape(x.sizes());
}

// The norm whose output a point shows, if it is one that reads the residual stream.
std::optional<ParameterRole> norm_of(const ModelConfig& config, TapPoint point) {
  if (point == TapPoint::attention_input) return sides_of(config, ParameterRole::query).norm;
  if (point == TapPoint::mlp_input) return sides_of(config, ParameterRole::up).norm;
  if (point == TapPoint::final_state) return sides_of(config, ParameterRole::head).norm;
  return std::nullopt;
}

}  // namespace

SpinQuantTap::SpinQuantTap(const ParameterStore& store, const BitWidths& bits,
                           const OnlineTransforms& online, const at::Tensor& residual,
                           const std::vector<at::Tensor>& values, const ActivationGroups& groups)
    : store_(store),
      bits_(bits),
      online_(OnlineTransforms{.query_key_hadamard = online.query_key_hadamard && bits.turns_keys(),
                               .down_hadamard = online.down_hadamard,
                               .down_block = online.down_block}),
      quantizer_(store, bits, kNone, {.groups = groups}),
      residual_(residual),
      values_(values) {
  OSP_CHECK(static_cast<int64_t>(values.size()) == store.config.layers, "{} R2 for {} layers",
            values.size(), store.config.layers);
}

bool SpinQuantTap::wants(TapPoint point, int64_t layer) const {
  const bool biased_norm = store_.config.norm == "layer" && norm_of(store_.config, point);
  return point == TapPoint::embedding || point == TapPoint::final_state || biased_norm ||
         point == TapPoint::value || online_.wants(point, layer) || quantizer_.wants(point, layer);
}

// x = n + b, what a norm adds being its bias b: n + b R1.
at::Tensor SpinQuantTap::with_turned_bias(ParameterRole norm, int64_t layer,
                                          const at::Tensor& x) const {
  const int64_t bias = store_.find_bias(norm, layer);
  if (bias < 0) return x;
  const at::Tensor b = store_.master(bias);
  return x + (at::matmul(b, residual_) - b);
}

at::Tensor SpinQuantTap::at(TapPoint point, int64_t layer, const at::Tensor& input) {
  leave_if_stopped("rotations were learned");
  at::Tensor x = input;
  if (const auto norm = norm_of(store_.config, point)) {
    x = with_turned_bias(*norm, point == TapPoint::final_state ? kNoLayer : layer, x);
  }
  if (point == TapPoint::embedding) return at::matmul(x, residual_);
  if (point == TapPoint::final_state) return at::matmul(x, residual_.t());
  const at::Tensor y = point == TapPoint::value ? at::matmul(x, values_[static_cast<size_t>(layer)])
                                                : online_.at(point, layer, x);
  if (!quantizer_.wants(point, layer)) return y;
  return straight_through(y, quantizer_.at(point, layer, y.detach()));
}

at::Tensor SpinQuantTap::rotated(int64_t parameter) const {
  const ParameterSpec& spec = store_.specs[static_cast<size_t>(parameter)];
  const at::Tensor w = store_.compute(parameter);
  const std::optional<BlockLinear> layer = block_linear(spec.role);
  OSP_CHECK(layer, "{} has no rotated form", spec.name);
  switch (*layer) {
    case BlockLinear::query:
    case BlockLinear::key:
    case BlockLinear::value:
    case BlockLinear::gate:
    case BlockLinear::up:
      return at::matmul(w, residual_);
    case BlockLinear::attention_output:
      return at::matmul(residual_.t(), rotate_heads(w, values_[static_cast<size_t>(spec.layer)]));
    case BlockLinear::down:
      return at::matmul(residual_.t(), w);
  }
  OSP_CHECK(false, "unknown linear layer {}", static_cast<int>(*layer));
}

at::Tensor SpinQuantTap::weight(int64_t parameter, const at::Tensor& w) {
  const ParameterSpec& spec = store_.specs[static_cast<size_t>(parameter)];
  const bool added = sides_of(store_.config, spec.role).output == Basis::residual;
  if (spec.kind == ParameterKind::bias && added) return at::matmul(w, residual_);
  if (spec.kind != ParameterKind::matrix) return w;
  const at::Tensor turned = rotated(parameter);
  if (!bits_.quantizes_weights()) return turned;
  // Without the clipping search, which would take most of a step's time.
  return straight_through(turned, fake_quantize_symmetric(turned.detach(), bits_.weights.bits,
                                                          /*clipping_search=*/false));
}

}  // namespace osp
