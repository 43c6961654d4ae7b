#include "osp/quant/qat.h"

#include <ATen/core/grad_mode.h>

#include "osp/ops/hadamard.h"
#include "osp/ops/with_gradient.h"
#include "osp/quant/grid.h"

namespace osp {

at::Tensor QatTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = FakeQuantTap::at(point, layer, x.detach());
  }
  const bool rotated = point == TapPoint::query || point == TapPoint::key;
  return with_gradient(x, y, [rotated](const at::Tensor& dy) {
    return rotated ? hadamard_transform(dy, {.transposed = true}) : dy;
  });
}

at::Tensor QatTap::weight(int64_t parameter, const at::Tensor& w) {
  const at::Tensor values = w.detach();
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = FakeQuantTap::weight(parameter, values);
  }
  if (y.is_same(values)) return w;
  return with_gradient(w, y, [](const at::Tensor& dy) { return dy; });
}

at::Tensor QatTap::quantized_weight(const at::Tensor& w) const {
  return fake_quantize_symmetric(w, bits().weights, /*clipping_search=*/false);
}

}  // namespace osp
