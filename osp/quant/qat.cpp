#include "osp/quant/qat.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "osp/quant/grid.h"
#include "osp/quant/hadamard.h"

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// `y` in place of x, whose gradient is y's: back through the Hadamard transform where y = Q(x·H).
struct StraightThrough : torch::autograd::Function<StraightThrough> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*x*/, const at::Tensor& y,
                            bool rotated) {
    ctx->saved_data["rotated"] = rotated;
    return y.detach();
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const bool rotated = ctx->saved_data["rotated"].toBool();
    return {rotated ? hadamard_transform(d[0], {.transposed = true}) : d[0], {}, {}};
  }
};

}  // namespace

at::Tensor QatTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = FakeQuantTap::at(point, layer, x.detach());
  }
  const bool rotated = point == TapPoint::query || point == TapPoint::key;
  return StraightThrough::apply(x, y, rotated);
}

at::Tensor QatTap::weight(int64_t parameter, const at::Tensor& w) {
  const at::Tensor values = w.detach();
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = FakeQuantTap::weight(parameter, values);
  }
  return y.is_same(values) ? w : StraightThrough::apply(w, y, false);
}

at::Tensor QatTap::quantized_weight(const at::Tensor& w) const {
  return fake_quantize_symmetric(w, bits().weights, /*clipping_search=*/false);
}

}  // namespace osp
