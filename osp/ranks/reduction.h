// Sums whose order of additions is a fixed binary tree over the groups of a step's sequences, so
// that they have the same bits on any number of ranks:
//
//   groups  0   1   2   3   4   5      2, 4, 8, … neighbours that begin at a multiple of their
//            \ /     \ /     \ /       number make a subtree; what is left over when the groups
//             +       +       |        end is added from the right
//              \     /        |
//                 +-----------+
//
// A rank holds a run of neighbouring groups, hence one or a few whole subtrees, which it sums by
// itself (GroupSums). The owner of a matrix adds the subtrees of all ranks (add_subtrees).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace osp {

// Neighbouring groups [first, first + count).
struct GroupRun {
  int64_t first = 0;
  int64_t count = 0;
};

// The groups that a rank has: the numbers of two ranks differ by one at most.
GroupRun groups_of_rank(int64_t groups, int64_t ranks, int64_t rank);

// The largest subtrees that make up a run of groups, from left to right.
std::vector<GroupRun> subtrees(const GroupRun& run);

// Sets of buffers that GroupSums keeps for a run of groups.
int64_t num_waiting(const GroupRun& run);

// Sums the parts of a rank's groups as they come. Its buffers are kept for the next sum.
class GroupSums {
 public:
  // `sums` has the part of the next group of `run`. After the last it has the sum of the last of
  // subtrees(run); before that it may be overwritten.
  void add(const std::vector<at::Tensor>& sums, const GroupRun& run);
  // After the last group: the sum of a subtree but the last.
  const std::vector<at::Tensor>& of_subtree(size_t number) const { return waiting_[number]; }

 private:
  std::vector<std::vector<at::Tensor>> waiting_;  // finished subtrees, from left to right
  std::vector<GroupRun> trees_;                   // what waiting_ holds now
  int64_t added_ = 0;
};

// Adds the sums of subtrees that cover all groups, from left to right, in place; returns the last
// of the tensors, which has the sum of all.
at::Tensor add_subtrees(const std::vector<GroupRun>& trees, std::vector<at::Tensor> sums);

}  // namespace osp
