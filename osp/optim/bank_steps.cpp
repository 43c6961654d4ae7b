#include "osp/optim/bank_steps.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <algorithm>
#include <numeric>

#include "osp/ops/parallel.h"

namespace osp {
namespace {

constexpr int64_t kSliceElements = 1 << 20;

}  // namespace

std::vector<BankSlice> bank_slices(const at::Tensor& bank) {
  const int64_t matrix = bank.size(1) * bank.size(2);
  const int64_t step = std::max(kSliceElements / matrix, int64_t{1});
  std::vector<BankSlice> slices;
  for (int64_t first = 0; first < bank.size(0); first += step) {
    slices.push_back({first, std::min(step, bank.size(0) - first)});
  }
  return slices;
}

int64_t count_failures(int64_t count, const std::function<int64_t(int64_t)>& task) {
  std::vector<int64_t> failures(static_cast<size_t>(count));
  for_each_task(count, [&](int64_t i) { failures[static_cast<size_t>(i)] = task(i); });
  return std::accumulate(failures.begin(), failures.end(), int64_t{0});
}

at::Tensor matrix_norms(const at::Tensor& x) {
  return at::linalg_vector_norm(at::linalg_vector_norm(x, 2, at::IntArrayRef{2}, true), 2,
                                at::IntArrayRef{1}, true);
}

double apply_update(at::Tensor weight, const at::Tensor& update, const StepValues& values) {
  const at::Tensor before = values.measure ? weight.clone() : at::Tensor();
  weight.mul_(1 - values.lr * values.weight_decay).sub_(update);
  return values.measure ? (weight - before).square_().sum(at::kDouble).item<double>() : 0;
}

}  // namespace osp
