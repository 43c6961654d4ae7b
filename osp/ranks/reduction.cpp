#include "osp/ranks/reduction.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

// True if a subtree and the one to its left are the halves of a subtree.
bool joins(const GroupRun& left, const GroupRun& right) {
  return left.count == right.count && left.first % (2 * left.count) == 0 &&
         left.first + left.count == right.first;
}

GroupRun joined(const GroupRun& left, const GroupRun& right) {
  return {left.first, left.count + right.count};
}

// Adds the next group to what is complete so far.
void push_group(std::vector<GroupRun>& trees, int64_t group) {
  GroupRun tree{group, 1};
  while (!trees.empty() && joins(trees.back(), tree)) {
    tree = joined(trees.back(), tree);
    trees.pop_back();
  }
  trees.push_back(tree);
}

}  // namespace

GroupRun groups_of_rank(int64_t groups, int64_t ranks, int64_t rank) {
  OSP_CHECK(rank >= 0 && rank < ranks && ranks <= groups, "rank {} of {} with {} groups", rank,
            ranks, groups);
  const int64_t first = groups * rank / ranks;
  return {first, groups * (rank + 1) / ranks - first};
}

std::vector<GroupRun> subtrees(const GroupRun& run) {
  std::vector<GroupRun> trees;
  for (int64_t i = 0; i < run.count; ++i) push_group(trees, run.first + i);
  return trees;
}

int64_t num_waiting(const GroupRun& run) {
  std::vector<GroupRun> trees;
  size_t most = 0;
  for (int64_t i = 0; i + 1 < run.count; ++i) {
    push_group(trees, run.first + i);
    most = std::max(most, trees.size());
  }
  return static_cast<int64_t>(most);
}

void GroupSums::add(const std::vector<at::Tensor>& sums, const GroupRun& run) {
  const at::NoGradGuard no_grad;
  if (added_ == run.count) added_ = 0;
  if (added_ == 0) trees_.clear();
  // Add the left halves of the subtrees that this group completes.
  GroupRun tree{run.first + added_++, 1};
  while (!trees_.empty() && joins(trees_.back(), tree)) {
    const std::vector<at::Tensor>& left = waiting_[trees_.size() - 1];
    for (size_t i = 0; i < sums.size(); ++i) at::Tensor(sums[i]).add_(left[i]);
    tree = joined(trees_.back(), tree);
    trees_.pop_back();
  }
  if (added_ == run.count) return;
  // Keep what is complete now.
  if (waiting_.size() <= trees_.size()) waiting_.emplace_back();
  std::vector<at::Tensor>& kept = waiting_[trees_.size()];
  trees_.push_back(tree);
  if (kept.empty()) {
    for (const at::Tensor& sum : sums) kept.push_back(sum.clone());
  } else {
    for (size_t i = 0; i < sums.size(); ++i) kept[i].copy_(sums[i]);
  }
}

at::Tensor add_subtrees(const std::vector<GroupRun>& trees, std::vector<at::Tensor> sums) {
  OSP_CHECK(!trees.empty() && trees.size() == sums.size(), "{} sums of {} subtrees", sums.size(),
            trees.size());
  const at::NoGradGuard no_grad;
  // Join halves.
  std::vector<GroupRun> stack;
  std::vector<at::Tensor> waiting;
  for (size_t i = 0; i < trees.size(); ++i) {
    GroupRun tree = trees[i];
    at::Tensor sum = sums[i];
    while (!stack.empty() && joins(stack.back(), tree)) {
      sum.add_(waiting.back());
      tree = joined(stack.back(), tree);
      stack.pop_back();
      waiting.pop_back();
    }
    stack.push_back(tree);
    waiting.push_back(sum);
  }
  // Add what is left over from the right.
  at::Tensor all = waiting.back();
  for (size_t i = waiting.size() - 1; i-- > 0;) all.add_(waiting[i]);
  return all;
}

}  // namespace osp
