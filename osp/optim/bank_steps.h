// What optimizers that work on slices of a bank share: the slices, norms of single matrices, and
// the update of the weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
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

// Frobenius norm of each matrix of x [n, rows, cols], as [n, 1, 1]; summed row by row first, so
// that fp32 sums stay short.
at::Tensor matrix_norms(const at::Tensor& x);

// w ← (1 − lr · decay) w − update, in place. Returns the squared norm of the change if
// values.measure, else 0.
double apply_update(at::Tensor weight, const at::Tensor& update, const StepValues& values);

}  // namespace osp
