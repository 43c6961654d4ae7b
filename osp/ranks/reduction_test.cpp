#include "osp/ranks/reduction.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "osp/base/philox.h"

namespace osp {
namespace {

// Numbers of very different sizes: another order of additions gives other bits.
std::vector<at::Tensor> parts_of_groups(int64_t groups) {
  std::vector<at::Tensor> parts;
  for (int64_t g = 0; g < groups; ++g) {
    at::Tensor part = at::zeros({1000}, at::kFloat);
    RandomStream(3, "part " + std::to_string(g)).fill_normal({part.data_ptr<float>(), 1000}, 0, 1);
    parts.push_back(part.mul_(std::pow(10.0, static_cast<double>(g % 5))));
  }
  return parts;
}

// The tree by its definition.
at::Tensor tree_reference(const std::vector<at::Tensor>& parts, size_t first, size_t count) {
  if (count == 1) return parts[first];
  return tree_reference(parts, first, count / 2) +
         tree_reference(parts, first + count / 2, count / 2);
}

// The sum as `ranks` ranks and one owner make it.
at::Tensor sum_by_ranks(const std::vector<at::Tensor>& parts, int64_t ranks) {
  const int64_t own = static_cast<int64_t>(parts.size()) / ranks;
  std::vector<at::Tensor> sums;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    PairwiseSum sum;
    at::Tensor gradient = at::zeros_like(parts[0]);
    for (int64_t step = 0; step < 2; ++step) {  // the buffers serve again
      for (int64_t g = 0; g < own; ++g) {
        gradient.copy_(parts[static_cast<size_t>(rank * own + g)]);
        sum.add({gradient}, own);
      }
    }
    sums.push_back(gradient);
  }
  return add_parts(at::stack(sums));
}

TEST(Reduction, TheSumHasTheBitsOfTheTreeOnAnyNumberOfRanks) {
  for (const int64_t groups : {1, 2, 4, 8, 16}) {
    const std::vector<at::Tensor> parts = parts_of_groups(groups);
    const at::Tensor expected = tree_reference(parts, 0, parts.size());
    for (int64_t ranks = 1; ranks <= groups; ranks *= 2) {
      EXPECT_TRUE(at::equal(sum_by_ranks(parts, ranks), expected)) << groups << ", " << ranks;
    }
  }
}

TEST(Reduction, TheOrderOfAdditionsMattersForTheseParts) {
  const std::vector<at::Tensor> parts = parts_of_groups(4);
  const at::Tensor in_a_row = parts[0] + parts[1] + parts[2] + parts[3];
  EXPECT_FALSE(at::equal(in_a_row, tree_reference(parts, 0, 4)));
}

TEST(Reduction, OnlyPowersOfTwoMakeATree) {
  EXPECT_TRUE(is_power_of_two(1) && is_power_of_two(2) && is_power_of_two(64));
  EXPECT_FALSE(is_power_of_two(0) || is_power_of_two(-2) || is_power_of_two(6));
}

}  // namespace
}  // namespace osp
