#include "osp/quant/fake_quant.h"

#include "osp/base/error.h"
#include "osp/ops/hadamard.h"
#include "osp/quant/float_grid.h"
#include "osp/quant/grid.h"
#include "osp/quant/joined_layers.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

FakeQuantTap::FakeQuantTap(const ParameterStore& store, const BitWidths& bits,
                           const OnlineTransforms& online, const ActivationGrids& grids)
    : store_(store), bits_(bits), online_(online), grids_(grids) {
  check_activation_groups(grids.groups, store.config);
  check_float_blocks(bits, store.config);
  if (!bits_.turns_keys()) online_.query_key_hadamard = false;
  if (online_.query_key_hadamard) check_hadamard_size(store.config.head_size, "head size");
  if (online_.down_hadamard) {
    for (const int64_t inner : store.config.inner_sizes()) {
      check_hadamard_size(online_.down_block == 0 ? inner : online_.down_block, "inner size");
    }
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
      return online_.query_key_hadamard;
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
  const bool is_static = fixed != grids_.scales.end();
  if (bits_.activations.is_float()) {
    const NumberKind kind = bits_.activations.kind;
    return is_static ? fake_quantize_float(x, kind, static_cast<float>(fixed->second.scale))
                     : fake_quantize_float(x, kind);
  }
  const int64_t bits = bits_.activations.bits;
  if (is_static) return fake_quantize_static(x, bits, fixed->second);
  const GroupRange range =
      point == TapPoint::attention_output ? GroupRange::free : GroupRange::contains_zero;
  // Experts have an inner size of their own.
  const bool one_group = point == TapPoint::mlp_product && !grids_.groups.any();
  const int64_t group =
      one_group ? x.size(-1) : activation_group(grids_.groups, point, store_.config);
  return fake_quantize_asymmetric(x, bits, group, range, grids_.clips.activations);
}

// A key or value, [.., head], on the grid of the cache.
at::Tensor FakeQuantTap::in_cache(const at::Tensor& x, GroupRange range) const {
  if (bits_.kv_cache.is_float()) return fake_quantize_float(x, bits_.kv_cache.kind);
  return fake_quantize_asymmetric(x, bits_.kv_cache.bits, x.size(-1), range, grids_.clips.cache);
}

at::Tensor FakeQuantTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  switch (point) {
    case TapPoint::query:
      return hadamard_transform(x);
    case TapPoint::key:
      return in_cache(online_.query_key_hadamard ? hadamard_transform(x) : x,
                      GroupRange::contains_zero);
    case TapPoint::value:
      return in_cache(x, GroupRange::free);
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
  if (!cached.defined()) {
    cached = bits_.weights.is_float()
                 ? round_to_nearest(
                       w, grid_of_layer(float_weight_grid(bits_.weights.kind), store_, parameter),
                       spec.name)
                       .dequantized()
                       .to(w.scalar_type())
                 : quantized_weight(w);
  }
  OSP_CHECK(cached.sizes() == w.sizes(), "{}: the weight changed its shape", spec.name);
  return cached;
}

at::Tensor FakeQuantTap::quantized_weight(const at::Tensor& w) const {
  return fake_quantize_symmetric(w, bits_.weights.bits, /*clipping_search=*/true);
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
