#include "osp/optim/factor_tap.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/mm.h>

namespace osp {
namespace {

// sum ← sum + xᵀ x in fp32 for x [tokens, size]; an undefined sum is zero.
void add_gram(at::Tensor& sum, const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = x.to(at::kFloat);
  if (sum.defined()) {
    sum.addmm_(rows.t(), rows);
  } else {
    sum = at::mm(rows.t(), rows);
  }
}

}  // namespace

void FactorTap::restart(bool gather) {
  sums_.clear();
  gathers_ = gather;
}

void FactorTap::linear_input(int64_t parameter, const at::Tensor& x) {
  if (!gathers_ || !parameters_.contains(parameter)) return;
  FactorSums& sums = sums_[parameter];
  add_gram(sums.inputs, x);
  sums.num_tokens += x.size(0);
}

void FactorTap::linear_output_gradient(int64_t parameter, const at::Tensor& dy) {
  if (!gathers_ || !parameters_.contains(parameter)) return;
  add_gram(sums_[parameter].output_gradients, dy);
}

}  // namespace osp
