#include "osp/ops/weight_ref.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "osp/base/error.h"
#include "osp/ops/dispatch.h"

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct WeightLeaf : torch::autograd::Function<WeightLeaf> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*anchor*/,
                            const WeightRef& weight) {
    ctx->saved_data["gradient"] = weight.gradient;
    return weight.value.detach();
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const at::Tensor gradient = ctx->saved_data["gradient"].toTensor();
    if (gradient.defined()) accumulate(gradient, d[0].contiguous());
    return {{}, {}};
  }
};

}  // namespace

at::Tensor weight_leaf(const WeightRef& weight, const at::Tensor& anchor) {
  return WeightLeaf::apply(anchor, weight);
}

void accumulate(const at::Tensor& sum, const at::Tensor& x) {
  RECORD_USER_SCOPE("osp::accumulate");
  OSP_CHECK(sum.is_contiguous() && sum.numel() == x.numel(), "{} sums of {} values", sum.numel(),
            x.numel());
  if (!has_kernels(x)) {
    sum.add_(x.view(sum.sizes()));
    return;
  }
  const at::Tensor values = x.contiguous();
  dispatch(values, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, values.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
      k.accumulate(sum.mutable_data_ptr<float>() + begin, data<T>(values) + begin, end - begin);
    });
  });
}

}  // namespace osp
