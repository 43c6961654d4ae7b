#include "osp/ranks/owners.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <tuple>

#include "osp/optim/optimizers.h"

namespace osp {
namespace {

// A vector or scalar is one row of its bank.
std::vector<int64_t> bank_shape(const ParameterSpec& spec) {
  if (spec.shape.size() == 2) return spec.shape;
  return {1, spec.shape.empty() ? 1 : spec.shape.back()};
}

}  // namespace

BankSlice Owners::slice(size_t bank, int64_t rank) const {
  const std::vector<int64_t>& of_bank = counts[bank];
  return {std::accumulate(of_bank.begin(), of_bank.begin() + rank, int64_t{0}),
          of_bank[static_cast<size_t>(rank)]};
}

Owners assign_owners(const std::vector<BankWork>& banks, int64_t ranks) {
  const auto work_at_a_time = [](const BankWork& bank) {
    return bank.divisible ? bank.cost : bank.cost * static_cast<double>(bank.count);
  };
  std::vector<size_t> order(banks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t l, size_t r) {
    return work_at_a_time(banks[l]) > work_at_a_time(banks[r]);
  });
  Owners owners{std::vector(banks.size(), std::vector(static_cast<size_t>(ranks), int64_t{0}))};
  std::vector<double> load(static_cast<size_t>(ranks), 0.0);
  for (const size_t bank : order) {
    const int64_t at_a_time = banks[bank].divisible ? 1 : banks[bank].count;
    for (int64_t given = 0; given < banks[bank].count; given += at_a_time) {
      const auto least = std::min_element(load.begin(), load.end());
      *least += work_at_a_time(banks[bank]);
      owners.counts[bank][static_cast<size_t>(least - load.begin())] += at_a_time;
    }
  }
  return owners;
}

std::vector<BankWork> work_of_banks(const std::vector<ParameterSpec>& specs, const Routing& routing,
                                    const OptimConfig& config) {
  std::vector<BankWork> banks;
  std::map<std::tuple<ParameterKind, int64_t, std::vector<int64_t>>, size_t> index;
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    const int64_t number = routing.group_of[i];
    const auto [place, is_new] =
        index.try_emplace({spec.kind, number, bank_shape(spec)}, banks.size());
    if (is_new) {
      const OptimizerGroup& group = routing.groups[static_cast<size_t>(number)];
      banks.push_back({.cost = update_flops(group, spec.shape, config),
                       .divisible = group.optimizer->division == Division::matrices,
                       .member = static_cast<int64_t>(i)});
    }
    ++banks[place->second].count;
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
