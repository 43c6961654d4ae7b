// Which rank keeps and updates which matrices: every rank a run of neighbours of each bank, so that
// a bank needs no packing when its parts travel.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"

namespace osp {

// A bank as work: its number of matrices, the cost of updating one, whether several ranks may share
// it (OptimizerRow::division), and one of its members.
struct BankWork {
  int64_t count = 0;
  double cost = 0;
  bool divisible = false;
  int64_t member = 0;  // index into the specs
};

// The matrices of each bank by rank, in the order of ranks.
struct Owners {
  std::vector<std::vector<int64_t>> counts;  // [bank][rank]

  BankSlice slice(size_t bank, int64_t rank) const;
};

// Shares the banks: matrix by matrix, the most expensive first, each to the rank that has least
// work so far (of several the first). An indivisible bank counts as one matrix.
Owners assign_owners(const std::vector<BankWork>& banks, int64_t ranks);

// The banks that make_parameters() gives a store of these parameters, in its order.
std::vector<BankWork> work_of_banks(const std::vector<ParameterSpec>& specs, const Routing& routing,
                                    const OptimConfig& config);

// The store with each bank narrowed to what a rank owns: views of the same tensors.
ParameterStore owned_part(const ParameterStore& store, const Owners& owners, int64_t rank);

}  // namespace osp
