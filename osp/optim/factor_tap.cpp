#include "osp/optim/factor_tap.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "osp/base/error.h"
#include "osp/ops/gram.h"

namespace osp {
namespace {

at::Tensor zero_sum(const at::Tensor& rows) {
  return at::zeros({rows.size(1), rows.size(1)}, rows.options().dtype(at::kFloat));
}

}  // namespace

void FactorTap::restart(bool gather) {
  sums_.clear();
  gathers_ = gather;
}

void FactorTap::linear_input(std::span<const int64_t> parameters, const at::Tensor& x) {
  if (!gathers_) return;
  const at::NoGradGuard no_grad;
  at::Tensor shared;  // the sum of all these layers
  for (const int64_t parameter : parameters) {
    if (!parameters_.contains(parameter)) continue;
    FactorSums& sums = sums_[parameter];
    if (!sums.inputs.defined()) sums.inputs = shared.defined() ? shared : zero_sum(x);
    if (!shared.defined()) shared = sums.inputs;
    OSP_CHECK(sums.inputs.is_same(shared), "layer {} shared its input with others", parameter);
    sums.num_tokens += x.size(0);
  }
  if (shared.defined()) add_gram(shared, x);
}

void FactorTap::linear_output_gradient(int64_t parameter, const at::Tensor& dy) {
  if (!gathers_ || !parameters_.contains(parameter)) return;
  const at::NoGradGuard no_grad;
  at::Tensor& sum = sums_[parameter].output_gradients;
  if (!sum.defined()) sum = zero_sum(dy);
  add_gram(sum, dy);
}

}  // namespace osp
