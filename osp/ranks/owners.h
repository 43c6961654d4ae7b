// Which rank keeps and updates which matrices: every rank a run of neighbours of each bank, so that a
// bank needs no packing when its parts travel.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/optimizer.h"

namespace osp {

// A bank as work: its number of matrices, the cost of updating one, and whether several ranks may
// share it (OptimizerRow::division).
struct BankWork {
  int64_t count = 0;
  double cost = 0;
  bool divisible = false;
};

// The matrices of each bank by rank, in the order of ranks.
struct Owners {
  std::vector<std::vector<int64_t>> counts;  // [bank][rank]

  BankSlice slice(size_t bank, int64_t rank) const;
};

// Shares the banks: the most expensive first, in equal numbers of matrices, what is left over to the
// ranks with the least work so far; an indivisible bank goes to one of these as a whole.
Owners assign_owners(const std::vector<BankWork>& banks, int64_t ranks);

std::vector<BankWork> work_of_banks(const ParameterStore& store,
                                    const std::vector<OptimizerGroup>& groups);

// The store with each bank narrowed to what a rank owns: views of the same tensors.
ParameterStore owned_part(const ParameterStore& store, const Owners& owners, int64_t rank);

}  // namespace osp
