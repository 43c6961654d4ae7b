#include "osp/ranks/reduction.h"

#include <ATen/core/grad_mode.h>

#include "osp/base/error.h"

namespace osp {

void PairwiseSum::add(const std::vector<at::Tensor>& sums, int64_t count) {
  OSP_CHECK(is_power_of_two(count) && added_ < count, "group {} of {}", added_, count);
  const at::NoGradGuard no_grad;
  // Add the left subtrees that this group completes: as many as its number ends in ones.
  int64_t number = added_++;
  size_t level = 0;
  for (; number % 2 == 1; number /= 2, ++level) {
    for (size_t i = 0; i < sums.size(); ++i) at::Tensor(sums[i]).add_(waiting_[level][i]);
  }
  if (added_ == count) {
    added_ = 0;
    return;
  }
  // What is complete now is a left subtree itself: keep it.
  if (waiting_.size() <= level) waiting_.resize(level + 1);
  std::vector<at::Tensor>& kept = waiting_[level];
  if (kept.empty()) {
    for (const at::Tensor& sum : sums) kept.push_back(sum.clone());
  } else {
    for (size_t i = 0; i < sums.size(); ++i) kept[i].copy_(sums[i]);
  }
}

at::Tensor add_parts(const at::Tensor& parts) {
  const int64_t count = parts.size(0);
  OSP_CHECK(is_power_of_two(count), "{} parts", count);
  for (int64_t stride = 1; stride < count; stride *= 2) {
    for (int64_t i = 0; i < count; i += 2 * stride) parts[i].add_(parts[i + stride]);
  }
  return parts[0];
}

bool is_power_of_two(int64_t number) { return number > 0 && (number & (number - 1)) == 0; }

}  // namespace osp
