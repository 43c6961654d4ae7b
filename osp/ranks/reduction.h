// Sums whose order of additions is a fixed binary tree over the groups of a step's sequences, so that
// they have the same bits on any number of ranks:
//
//   groups  0   1   2   3        a rank holds 1, 2, 4, … neighbouring groups, hence whole subtrees
//            \ /     \ /         (PairwiseSum); an owner adds the subtrees of all ranks (add_parts)
//             +       +
//              \     /
//                 +
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace osp {

// Sums the parts of a power of two of groups as they come, with one set of buffers per level of the
// tree, which is kept for the next sum.
class PairwiseSum {
 public:
  // `sums` has the part of the next of `count` groups. After the last it has the sum of all; before
  // that it may be overwritten.
  void add(const std::vector<at::Tensor>& sums, int64_t count);

 private:
  std::vector<std::vector<at::Tensor>> waiting_;  // by level: a left subtree without its right one
  int64_t added_ = 0;
};

// Adds parts [ranks, …], a power of two of them, pairwise in place; returns the sum, a view of the
// first part.
at::Tensor add_parts(const at::Tensor& parts);

bool is_power_of_two(int64_t number);

}  // namespace osp
