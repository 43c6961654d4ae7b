#include "osp/ranks/owners.h"

#include <algorithm>
#include <numeric>

namespace osp {
namespace {

// Operations on one element in an update that is no product of matrices, and in Newton–Schulz per
// element and row of the smaller side.
constexpr double kElementwiseCost = 100;
constexpr double kNewtonSchulzCost = 30;

// Ranks in the order of their load, the least first.
std::vector<size_t> by_load(const std::vector<double>& load) {
  std::vector<size_t> ranks(load.size());
  std::iota(ranks.begin(), ranks.end(), size_t{0});
  std::stable_sort(ranks.begin(), ranks.end(),
                   [&](size_t l, size_t r) { return load[l] < load[r]; });
  return ranks;
}

}  // namespace

BankSlice Owners::slice(size_t bank, int64_t rank) const {
  const std::vector<int64_t>& of_bank = counts[bank];
  return {std::accumulate(of_bank.begin(), of_bank.begin() + rank, int64_t{0}),
          of_bank[static_cast<size_t>(rank)]};
}

Owners assign_owners(const std::vector<BankWork>& banks, int64_t ranks) {
  std::vector<size_t> order(banks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t l, size_t r) {
    return banks[l].cost * double(banks[l].count) > banks[r].cost * double(banks[r].count);
  });
  Owners owners{std::vector(banks.size(), std::vector(static_cast<size_t>(ranks), int64_t{0}))};
  std::vector<double> load(static_cast<size_t>(ranks), 0.0);
  for (const size_t bank : order) {
    const BankWork& work = banks[bank];
    const std::vector<size_t> free = by_load(load);
    for (size_t place = 0; place < free.size(); ++place) {
      const auto behind = static_cast<int64_t>(place);
      const int64_t shared = work.count / ranks + (behind < work.count % ranks ? 1 : 0);
      const int64_t whole = place == 0 ? work.count : 0;
      const int64_t count = work.divisible ? shared : whole;
      owners.counts[bank][free[place]] = count;
      load[free[place]] += double(count) * work.cost;
    }
  }
  return owners;
}

std::vector<BankWork> work_of_banks(const ParameterStore& store,
                                    const std::vector<OptimizerGroup>& groups) {
  std::vector<BankWork> banks;
  for (const Bank& bank : store.banks) {
    const auto rows = double(bank.master.size(1)), cols = double(bank.master.size(2));
    const Division division = groups[static_cast<size_t>(bank.group)].optimizer->division;
    const bool divisible = division == Division::matrices;
    banks.push_back(
        {.count = bank.master.size(0),
         .cost = rows * cols *
                 (divisible ? kNewtonSchulzCost * std::min(rows, cols) : kElementwiseCost),
         .divisible = divisible});
  }
  return banks;
}

ParameterStore owned_part(const ParameterStore& store, const Owners& owners, int64_t rank) {
  ParameterStore owned = store;
  for (size_t i = 0; i < owned.banks.size(); ++i) {
    Bank& bank = owned.banks[i];
    const BankSlice slice = owners.slice(i, rank);
    const bool shared = bank.compute.is_same(bank.master);
    bank.master = slice.of(bank.master);
    bank.gradient = slice.of(bank.gradient);
    bank.compute = shared ? bank.master : slice.of(bank.compute);
  }
  return owned;
}

}  // namespace osp
