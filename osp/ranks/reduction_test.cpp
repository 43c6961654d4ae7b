#include "osp/ranks/reduction.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>

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

// The tree by its definition: the largest power of two of groups from the left, and the rest.
at::Tensor tree_reference(const std::vector<at::Tensor>& parts, size_t first, size_t count) {
  if (count == 1) return parts[first];
  size_t left = 1;
  while (2 * left < count) left *= 2;
  return tree_reference(parts, first, left) + tree_reference(parts, first + left, count - left);
}

// The sum as `ranks` ranks and one owner make it.
at::Tensor sum_by_ranks(const std::vector<at::Tensor>& parts, int64_t ranks) {
  const auto groups = static_cast<int64_t>(parts.size());
  std::vector<GroupRun> trees;
  std::vector<at::Tensor> sums;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const GroupRun run = groups_of_rank(groups, ranks, rank);
    GroupSums own;
    at::Tensor gradient = at::zeros_like(parts[0]);
    for (int64_t step = 0; step < 2; ++step) {  // the buffers serve again
      for (int64_t g = 0; g < run.count; ++g) {
        gradient.copy_(parts[static_cast<size_t>(run.first + g)]);
        own.add({gradient}, run);
      }
    }
    const std::vector<GroupRun> own_trees = subtrees(run);
    for (size_t i = 0; i < own_trees.size(); ++i) {
      trees.push_back(own_trees[i]);
      sums.push_back(i + 1 < own_trees.size() ? own.of_subtree(i)[0] : gradient);
    }
  }
  return add_subtrees(trees, sums);
}

TEST(Reduction, TheSumHasTheBitsOfTheTreeOnAnyNumberOfRanks) {
  for (int64_t groups = 1; groups <= 17; ++groups) {
    const std::vector<at::Tensor> parts = parts_of_groups(groups);
    const at::Tensor expected = tree_reference(parts, 0, parts.size());
    for (int64_t ranks = 1; ranks <= groups; ++ranks) {
      EXPECT_TRUE(at::equal(sum_by_ranks(parts, ranks), expected)) << groups << ", " << ranks;
    }
  }
}

TEST(Reduction, TheOrderOfAdditionsMattersForTheseParts) {
  const std::vector<at::Tensor> parts = parts_of_groups(4);
  const at::Tensor in_a_row = parts[0] + parts[1] + parts[2] + parts[3];
  EXPECT_FALSE(at::equal(in_a_row, tree_reference(parts, 0, 4)));
}

TEST(Reduction, RanksHaveAllGroupsInOrderAndNumbersThatDifferByOneAtMost) {
  for (int64_t groups = 1; groups <= 20; ++groups) {
    for (int64_t ranks = 1; ranks <= groups; ++ranks) {
      int64_t next = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const GroupRun run = groups_of_rank(groups, ranks, rank);
        EXPECT_EQ(run.first, next);
        EXPECT_GE(run.count, groups / ranks);
        EXPECT_LE(run.count, (groups + ranks - 1) / ranks);
        next += run.count;
      }
      EXPECT_EQ(next, groups);
    }
  }
}

TEST(Reduction, PowersOfTwoGiveEveryRankOneSubtree) {
  for (int64_t ranks = 1; ranks <= 16; ranks *= 2) {
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const GroupRun run = groups_of_rank(16, ranks, rank);
      ASSERT_EQ(subtrees(run).size(), 1U);
      EXPECT_EQ(subtrees(run)[0].count, 16 / ranks);
    }
  }
  EXPECT_EQ(num_waiting({0, 16}), 4);  // one set of buffers per level of the tree
  EXPECT_EQ(num_waiting({3, 1}), 0);
  EXPECT_EQ(num_waiting({2, 3}), 1);
}

}  // namespace
}  // namespace osp
