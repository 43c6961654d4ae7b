#include "osp/quant/fake_quant.h"

#include "osp/base/error.h"
#include "osp/ops/hadamard.h"
#include "osp/quant/grid.h"

namespace osp {

FakeQuantTap::FakeQuantTap(const ParameterStore& store, const BitWidths& bits,
                           const OnlineTransforms& online, const ActivationGrids& grids)
    : store_(store), bits_(bits), online_(online), grids_(grids) {
  check_activation_groups(grids.groups, store.config);
  if (bits_.quantizes_kv_cache() && online_.query_key_hadamard) {
    check_hadamard_size(store.config.head_size, "head size");
  }
  if (online_.down_hadamard) {
    const int64_t inner = store.config.inner;
    check_hadamard_size(online_.down_block == 0 ? inner : online_.down_block, "inner size");
  }
}

bool FakeQuantTap::wants(TapPoint point, int64_t) const {
  switch (point) {
    case TapPoint::mlp_product:
      return bits_.quantizes_activations() || online_.down_hadamard;
    case TapPoint::attention_input:
    case TapPoint::attention_output:
    case TapPoint::mlp_input:
      return bits_.quantizes_activations();
    case TapPoint::query:
      return bits_.quantizes_kv_cache() && online_.query_key_hadamard;
    case TapPoint::key:
    case TapPoint::value:
      return bits_.quantizes_kv_cache();
    default:
      return false;
  }
}

// The input of a linear layer on its grid: less its offset, where it has one, which is added again.
at::Tensor FakeQuantTap::quantized_input(TapPoint point, int64_t layer, const at::Tensor& x) const {
  if (!bits_.quantizes_activations()) return x;
  const auto offset = grids_.offsets.find({point, layer});
  if (offset == grids_.offsets.end()) return on_grid(point, layer, x);
  // In fp32, whatever the type of x.
  return on_grid(point, layer, x.sub(offset->second)).add_(offset->second).to(x.scalar_type());
}

at::Tensor FakeQuantTap::on_grid(TapPoint point, int64_t layer, const at::Tensor& x) const {
  const auto fixed = grids_.scales.find({point, layer});
  if (fixed != grids_.scales.end()) {
    return fake_quantize_static(x, bits_.activations, fixed->second);
  }
  const GroupRange range =
      point == TapPoint::attention_output ? GroupRange::free : GroupRange::contains_zero;
  return fake_quantize_asymmetric(x, bits_.activations,
                                  activation_group(grids_.groups, point, store_.config), range,
                                  grids_.clips.activations);
}

at::Tensor FakeQuantTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  const int64_t width = x.size(-1);
  switch (point) {
    case TapPoint::query:
      return hadamard_transform(x);
    case TapPoint::key:
      return fake_quantize_asymmetric(online_.query_key_hadamard ? hadamard_transform(x) : x,
                                      bits_.kv_cache, width, GroupRange::contains_zero,
                                      grids_.clips.cache);
    case TapPoint::value:
      return fake_quantize_asymmetric(x, bits_.kv_cache, width, GroupRange::free,
                                      grids_.clips.cache);
    case TapPoint::mlp_product:
      return quantized_input(
          point, layer,
          online_.down_hadamard ? hadamard_transform(x, {.block = online_.down_block}) : x);
    default:
      return quantized_input(point, layer, x);
  }
}

at::Tensor FakeQuantTap::weight(int64_t parameter, const at::Tensor& w) {
  const ParameterSpec& spec = store_.specs.at(static_cast<size_t>(parameter));
  if (!bits_.quantizes_weights() || spec.kind != ParameterKind::matrix) return w;
  at::Tensor& cached = weights_[parameter];
  if (!cached.defined()) cached = quantized_weight(w);
  OSP_CHECK(cached.sizes() == w.sizes(), "{}: the weight changed its shape", spec.name);
  return cached;
}

at::Tensor FakeQuantTap::quantized_weight(const at::Tensor& w) const {
  return fake_quantize_symmetric(w, bits_.weights, /*clipping_search=*/true);
}

bool LinearInputTap::wants(TapPoint point, int64_t) const {
  return point == TapPoint::attention_input || point == TapPoint::attention_output ||
         point == TapPoint::mlp_input || point == TapPoint::mlp_product;
}

at::Tensor LinearInputTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  const at::Tensor input = inner_.at(point, layer, x);
  see(point, layer, input);
  return input;
}

}  // namespace osp
