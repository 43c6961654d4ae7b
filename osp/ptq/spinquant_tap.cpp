#include "osp/ptq/spinquant_tap.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>

#include "osp/base/error.h"
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

}  // namespace

void check_no_rotated_biases(const std::vector<ParameterSpec>& specs) {
  for (const ParameterSpec& spec : specs) {
    if (!spec.name.ends_with("o_proj.bias") && !spec.name.ends_with("down_proj.bias") &&
        !spec.name.ends_with("norm.bias")) {
      continue;
    }
    fail(ErrorCode::unsupported,
         "SpinQuant cannot learn R1 for a model with {}, which R1 would have to turn with every "
         "step: use QuaRot",
         spec.name);
  }
}

SpinQuantTap::SpinQuantTap(const ParameterStore& store, const BitWidths& bits,
                           const OnlineTransforms& online, const at::Tensor& residual,
                           const std::vector<at::Tensor>& values)
    : store_(store),
      bits_(bits),
      online_(OnlineTransforms{
          .query_key_hadamard = online.query_key_hadamard && bits.quantizes_kv_cache(),
          .down_hadamard = online.down_hadamard,
          .down_block = online.down_block}),
      quantizer_(store, bits, kNone),
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
  const auto is = [&](const char* name) { return spec.name.ends_with(name); };
  if (is(".q_proj.weight") || is(".k_proj.weight") || is(".v_proj.weight") ||
      is(".gate_proj.weight") || is(".up_proj.weight")) {
    return at::matmul(w, residual_);
  }
  if (is(".o_proj.weight")) {
    const at::Tensor& q = values_[static_cast<size_t>(spec.layer)];
    return at::matmul(residual_.t(), rotate_heads(w, q));
  }
  OSP_CHECK(is(".down_proj.weight"), "{} has no rotated form", spec.name);
  return at::matmul(residual_.t(), w);
}

at::Tensor SpinQuantTap::weight(int64_t parameter, const at::Tensor& w) {
  const ParameterSpec& spec = store_.specs[static_cast<size_t>(parameter)];
  if (spec.kind != ParameterKind::matrix) return w;
  const at::Tensor turned = rotated(parameter);
  if (!bits_.quantizes_weights()) return turned;
  // Without the clipping search, which would take most of a step's time.
  return straight_through(turned, fake_quantize_symmetric(turned.detach(), bits_.weights,
                                                          /*clipping_search=*/false));
}

}  // namespace osp
