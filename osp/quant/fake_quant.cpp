#include "osp/quant/fake_quant.h"

#include "osp/base/error.h"
#include "osp/quant/grid.h"
#include "osp/quant/hadamard.h"

namespace osp {

FakeQuantTap::FakeQuantTap(const ParameterStore& store, const BitWidths& bits)
    : store_(store), bits_(bits) {
  if (bits_.quantizes_kv_cache()) check_hadamard_size(store.config.head_size, "head size");
}

bool FakeQuantTap::wants(TapPoint point, int64_t) const {
  switch (point) {
    case TapPoint::attention_input:
    case TapPoint::attention_output:
    case TapPoint::mlp_input:
    case TapPoint::mlp_product:
      return bits_.quantizes_activations();
    case TapPoint::query:
    case TapPoint::key:
    case TapPoint::value:
      return bits_.quantizes_kv_cache();
    default:
      return false;
  }
}

at::Tensor FakeQuantTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  const int64_t width = x.size(-1);
  switch (point) {
    case TapPoint::attention_output:
      return fake_quantize_asymmetric(x, bits_.activations, store_.config.head_size,
                                      GroupRange::free);
    case TapPoint::query:
      return hadamard_transform(x);
    case TapPoint::key:
      return fake_quantize_asymmetric(hadamard_transform(x), bits_.kv_cache, width,
                                      GroupRange::contains_zero);
    case TapPoint::value:
      return fake_quantize_asymmetric(x, bits_.kv_cache, width, GroupRange::free);
    default:
      return fake_quantize_asymmetric(x, bits_.activations, width, GroupRange::contains_zero);
  }
}

at::Tensor FakeQuantTap::weight(int64_t parameter, const at::Tensor& w) {
  const ParameterSpec& spec = store_.specs.at(static_cast<size_t>(parameter));
  if (!bits_.quantizes_weights() || spec.kind != ParameterKind::matrix) return w;
  at::Tensor& cached = weights_[parameter];
  if (!cached.defined()) {
    cached = fake_quantize_symmetric(w, bits_.weights, /*clipping_search=*/true);
  }
  OSP_CHECK(cached.sizes() == w.sizes(), "{}: the weight changed its shape", spec.name);
  return cached;
}

}  // namespace osp
