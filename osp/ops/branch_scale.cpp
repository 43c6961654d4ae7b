#include "osp/ops/branch_scale.h"

#include <ATen/TensorOperators.h>

#include "osp/base/error.h"
#include "osp/ops/with_gradient.h"

namespace osp {

at::Tensor scale_branch(const at::Tensor& x, const WeightRef& scale) {
  OSP_CHECK(scale.value.dim() == 1 && scale.value.numel() == 1, "a branch scale of {} numbers",
            scale.value.numel());
  // A tensor without dimensions does not widen the result's type, but enters the product as it is.
  const at::Tensor factor = scale.value.detach().select(0, 0);
  const at::Tensor value = x.detach();
  return with_gradient(x, value * factor,
                       [value, factor, gradient = scale.gradient](const at::Tensor& dy) {
                         if (gradient.defined()) {
                           // One sum after the other: no sum of a row is shared by threads.
                           at::Tensor sum = dy.to(gradient.scalar_type()) * value;
                           while (sum.dim() > 0) sum = sum.sum(-1);
                           gradient.add_(sum);
                         }
                         return dy * factor;
                       });
}

}  // namespace osp
