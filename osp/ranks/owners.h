// Which rank keeps and updates which matrices, or which of their rows: every rank a run of
// neighbours of each bank, so that a bank needs no packing when its parts travel.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"

namespace osp {

// A bank as work: its number of matrices, the cost of updating one, how ranks may share it
// (OptimizerRow::division), and one of its members.
struct BankWork {
  int64_t count = 0;
  double cost = 0;
  bool divisible = false;  // matrix by matrix
  int64_t member = 0;      // index into the specs
  int64_t rows = 0;        // of a matrix, if the bank is divided by rows, else 0
  int64_t part = 1;        // rows that stay together
};

// What of each bank is whose. A bank is counted in units: matrices, or the rows of all its matrices
// one after the other.
struct Owners {
  std::vector<std::vector<int64_t>> counts;  // [bank][rank], units in the order of ranks
  // [bank] Units about which there is one number, such as a sum of squares: a matrix, or the rows
  // that stay together (the last ones of a bank may be fewer). They do not depend on the ranks.
  std::vector<int64_t> parts;

  BankSlice slice(size_t bank, int64_t rank) const;
  int64_t units(size_t bank) const;
  // A bank's tensor [matrices, rows, cols] with units as its first dimension: itself, or a view
  // [rows of all, 1, cols].
  at::Tensor in_units(size_t bank, const at::Tensor& tensor) const;
  // A rank's units of such a tensor.
  at::Tensor own(size_t bank, int64_t rank, const at::Tensor& tensor) const;
  // Numbers about a rank's units of a bank.
  int64_t numbers(size_t bank, int64_t rank) const;
};

// Shares the banks: matrix by matrix, or part by part, the most expensive first, each to the rank
// that has least work so far (of several the first). An indivisible bank counts as one matrix.
Owners assign_owners(const std::vector<BankWork>& banks, int64_t ranks);

// The banks that make_parameters() gives a store of these parameters, in its order.
std::vector<BankWork> work_of_banks(const std::vector<ParameterSpec>& specs, const Routing& routing,
                                    const OptimConfig& config);

// The store with each bank narrowed to what a rank owns: views of the same tensors, in units.
ParameterStore owned_part(const ParameterStore& store, const Owners& owners, int64_t rank);

}  // namespace osp
