#include "osp/ptq/spinquant_tap.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
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

// True if R1 would have to turn the role's bias: one that is added to the residual
// stream, or a norm's.
bool turns_bias(ParameterRole role) {
  switch (role) {
    case ParameterRole::attention_output:
    case ParameterRole::down:
    case ParameterRole::embedding_norm:
    case ParameterRole::input_norm:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::post_attention_norm:
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::final_norm:
      return true;
    case ParameterRole::query:
    case ParameterRole::key:
    case ParameterRole::value:
    case ParameterRole::router:
    case ParameterRole::gate:
    case ParameterRole::up:
      return false;
    // No biases here.
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::attention_sink:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::head_projection:
    case ParameterRole::head:
      break;
  }
  OSP_CHECK(false, "role {} with a bias", static_cast<int>(role));
}

}  // namespace

void check_no_rotated_biases(const std::vector<ParameterSpec>& specs) {
  for (const ParameterSpec& spec : specs) {
    if (spec.kind != ParameterKind::bias || !turns_bias(spec.role)) continue;
    fail(ErrorCode::unsupported,
         "SpinQuant cannot learn R1 for a model with {}, which R1 would have to turn with every "
         "step: use QuaRot",
         spec.name);
  }
}

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
  check_no_rotated_biases(store.specs);
}

bool SpinQuantTap::wants(TapPoint point, int64_t layer) const {
  return point == TapPoint::embedding || point == TapPoint::final_state ||
         point == TapPoint::value || online_.wants(point, layer) || quantizer_.wants(point, layer);
}

at::Tensor SpinQuantTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  leave_if_stopped("rotations were learned");
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
  if (spec.kind != ParameterKind::matrix) return w;
  const at::Tensor turned = rotated(parameter);
  if (!bits_.quantizes_weights()) return turned;
  // Without the clipping search, which would take most of a step's time.
  return straight_through(turned, fake_quantize_symmetric(turned.detach(), bits_.weights.bits,
                                                          /*clipping_search=*/false));
}

}  // namespace osp
