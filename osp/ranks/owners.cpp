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

// Rows that stay together where a bank is divided by rows. A multiple of 16, so that every number
// has the same place within the vectors of an instruction whoever owns it: kernels that treat the
// last numbers of a tensor in another way then do so with those of the whole bank alone. About as
// many numbers as sums of squares take at a time (osp/train/step.cpp).
int64_t rows_together(int64_t cols) {
  constexpr int64_t kLeast = 16, kNumbers = 1 << 15;
  return std::max(kLeast, kNumbers / cols / kLeast * kLeast);
}

}  // namespace

BankSlice Owners::slice(size_t bank, int64_t rank) const {
  const std::vector<int64_t>& of_bank = counts[bank];
  return {std::accumulate(of_bank.begin(), of_bank.begin() + rank, int64_t{0}),
          of_bank[static_cast<size_t>(rank)]};
}

int64_t Owners::units(size_t bank) const {
  return std::accumulate(counts[bank].begin(), counts[bank].end(), int64_t{0});
}

at::Tensor Owners::in_units(size_t bank, const at::Tensor& tensor) const {
  const int64_t number = units(bank);
  if (!tensor.defined() || tensor.size(0) == number) return tensor;
  return tensor.view({number, 1, tensor.size(-1)});
}

at::Tensor Owners::own(size_t bank, int64_t rank, const at::Tensor& tensor) const {
  return slice(bank, rank).of(in_units(bank, tensor));
}

int64_t Owners::numbers(size_t bank, int64_t rank) const {
  return (counts[bank][static_cast<size_t>(rank)] + parts[bank] - 1) / parts[bank];
}

namespace {

// A bank as what is given away one at a time.
struct Pieces {
  int64_t units = 0;  // of the whole bank
  int64_t size = 0;   // units of one piece; the last may have fewer
  double cost = 0;    // of one

  explicit Pieces(const BankWork& bank)
      : units(bank.rows > 0 ? bank.count * bank.rows : bank.count),
        size(bank.rows > 0    ? bank.part
             : bank.divisible ? 1
                              : bank.count),
        cost(bank.rows > 0 ? bank.cost * static_cast<double>(size) / static_cast<double>(bank.rows)
                           : bank.cost * static_cast<double>(size)) {}
  int64_t count() const { return (units + size - 1) / size; }
};

}  // namespace

Owners assign_owners(const std::vector<BankWork>& banks, int64_t ranks) {
  std::vector<Pieces> pieces(banks.begin(), banks.end());
  std::vector<size_t> order(banks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t l, size_t r) { return pieces[l].cost > pieces[r].cost; });
  Owners owners{std::vector(banks.size(), std::vector(static_cast<size_t>(ranks), int64_t{0})), {}};
  for (const BankWork& bank : banks) owners.parts.push_back(bank.rows > 0 ? bank.part : 1);
  std::vector<double> load(static_cast<size_t>(ranks), 0.0);
  for (const size_t bank : order) {
    std::vector<int64_t>& counts = owners.counts[bank];
    for (int64_t given = 0; given < pieces[bank].count(); ++given) {
      const auto least = std::min_element(load.begin(), load.end());
      *least += pieces[bank].cost;
      ++counts[static_cast<size_t>(least - load.begin())];
    }
    // Pieces as units: each rank begins where a piece begins.
    int64_t end = 0, before = 0;
    for (int64_t& count : counts) {
      end += count * pieces[bank].size;
      count = std::min(end, pieces[bank].units) - before;
      before += count;
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
      if (group.optimizer->division == Division::rows) {
        banks.back().rows = bank_shape(spec)[0];
        banks.back().part = rows_together(bank_shape(spec)[1]);
      }
    }
    ++banks[place->second].count;
  }
  return banks;
}

ParameterStore owned_part(const ParameterStore& store, const Owners& owners, int64_t rank) {
  ParameterStore owned = store;
  for (size_t i = 0; i < owned.banks.size(); ++i) {
    Bank& bank = owned.banks[i];
    const bool shared = bank.compute.is_same(bank.master);
    bank.master = owners.own(i, rank, bank.master);
    bank.gradient = owners.own(i, rank, bank.gradient);
    bank.compute = shared ? bank.master : owners.own(i, rank, bank.compute);
  }
  return owned;
}

}  // namespace osp
