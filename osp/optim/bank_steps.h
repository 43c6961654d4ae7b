// Parts shared by optimizers that work on slices of a bank: the slices, norms of single matrices,
// tasks by matrix, and the update of the weights.
//
// Tested by adafactor_test.cpp, kfac_test.cpp, shampoo_test.cpp and soap_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "osp/optim/optimizer.h"

namespace osp {

// Matrices [first, first + count) of a bank [n, rows, cols].
struct BankSlice {
  int64_t first = 0;
  int64_t count = 0;

  // Their part of a tensor whose first dimension is the bank's; undefined of an undefined one.
  at::Tensor of(const at::Tensor& bank) const {
    return bank.defined() ? bank.narrow(0, first, count) : at::Tensor();
  }
};

// The whole bank in slices of at most a million elements, or of one matrix where that has more:
// small matrices share one call, and temporaries stay small beside the bank.
std::vector<BankSlice> bank_slices(const at::Tensor& bank);

// Calls `task` with each slice of each bank. `StateOfBank` has the bank's weights as `weight` and
// gives its part of a slice by `of`.
template <class StateOfBank, class Task>
void for_each_slice(const std::vector<StateOfBank>& banks, const Task& task) {
  for (const StateOfBank& bank : banks) {
    for (const BankSlice slice : bank_slices(bank.weight)) task(bank.of(slice));
  }
}

// Each matrix of each bank as a slice.
template <class StateOfBank>
std::vector<StateOfBank> single_matrices(const std::vector<StateOfBank>& banks) {
  std::vector<StateOfBank> matrices;
  for (const StateOfBank& bank : banks) {
    for (int64_t i = 0; i < bank.weight.size(0); ++i) matrices.push_back(bank.of({i, 1}));
  }
  return matrices;
}

// Runs task(0) … task(count − 1), each on one thread. Returns the sum of the failures
// that they return.
int64_t count_failures(int64_t count, const std::function<int64_t(int64_t)>& task);

// Frobenius norm of each matrix of x [n, rows, cols], as [n, 1, 1]; summed row by row first, so
// that fp32 sums stay short.
at::Tensor matrix_norms(const at::Tensor& x);

// w ← (1 − lr · decay) w − update, in place. Returns the squared norm of the change if
// values.measure, else 0.
double apply_update(at::Tensor weight, const at::Tensor& update, const StepValues& values);

}  // namespace osp
