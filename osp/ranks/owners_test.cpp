#include "osp/ranks/owners.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace osp {
namespace {

std::vector<BankWork> model_like() {
  return {{.count = 1, .cost = 5e6, .divisible = false},    // embedding
          {.count = 1, .cost = 5e6, .divisible = false},    // head
          {.count = 48, .cost = 1e9, .divisible = true},    // q, k, v, o
          {.count = 24, .cost = 3e9, .divisible = true},    // gate, up
          {.count = 12, .cost = 3e9, .divisible = true},    // down
          {.count = 25, .cost = 100, .divisible = false}};  // gains
}

TEST(Owners, EveryMatrixHasOneOwner) {
  const std::vector<BankWork> banks = model_like();
  for (const int64_t ranks : {1, 2, 3, 4, 8, 16, 100}) {
    const Owners owners = assign_owners(banks, ranks);
    for (size_t bank = 0; bank < banks.size(); ++bank) {
      int64_t next = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const BankSlice slice = owners.slice(bank, rank);
        EXPECT_EQ(slice.first, next);
        EXPECT_TRUE(banks[bank].divisible || slice.count == 0 || slice.count == banks[bank].count);
        next += slice.count;
      }
      EXPECT_EQ(next, banks[bank].count);
    }
  }
}

TEST(Owners, NoRankHasMoreThanOneMatrixAboveTheMean) {
  const std::vector<BankWork> banks = model_like();
  double total = 0;
  for (const BankWork& bank : banks) total += bank.cost * double(bank.count);
  for (const int64_t ranks : {2, 4, 8, 16}) {
    const Owners owners = assign_owners(banks, ranks);
    for (int64_t rank = 0; rank < ranks; ++rank) {
      double load = 0;
      for (size_t bank = 0; bank < banks.size(); ++bank) {
        load += banks[bank].cost * double(owners.slice(bank, rank).count);
      }
      EXPECT_LE(load, total / double(ranks) + 3e9) << ranks;
    }
  }
}

TEST(Owners, WholeBanksGoToDifferentRanks) {
  const Owners owners = assign_owners({{1, 5e6, false}, {1, 5e6, false}}, 2);
  EXPECT_NE(owners.slice(0, 0).count, owners.slice(1, 0).count);
}

TEST(Owners, RowsAreSharedInPartsThatNoNumberOfRanksChanges) {
  // Two matrices of 100 rows in parts of 16: 13 parts, the last of 8 rows.
  const std::vector<BankWork> banks = {{.count = 2, .cost = 1e3, .rows = 100, .part = 16},
                                       {.count = 3, .cost = 1e9, .divisible = true}};
  for (const int64_t ranks : {1, 2, 3, 4, 8, 13, 40}) {
    const Owners owners = assign_owners(banks, ranks);
    EXPECT_EQ(owners.units(0), 200);
    int64_t next = 0, numbers = 0, owning = 0;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const BankSlice slice = owners.slice(0, rank);
      EXPECT_EQ(slice.first, next);
      EXPECT_TRUE(slice.count == 0 || slice.first % 16 == 0) << ranks;
      next += slice.count;
      numbers += owners.numbers(0, rank);
      owning += slice.count > 0 ? 1 : 0;
    }
    EXPECT_EQ(next, 200);
    EXPECT_EQ(numbers, 13);
    EXPECT_EQ(owners.parts, (std::vector<int64_t>{16, 1}));
    // Three ranks have a costly matrix each and so no row, where there are others.
    EXPECT_EQ(owning, ranks <= 3 ? ranks == 2 ? 1 : ranks : std::min<int64_t>(ranks - 3, 13));
  }
  const at::Tensor bank = at::arange(200 * 5).view({2, 100, 5});
  const Owners owners = assign_owners({banks[0]}, 2);
  EXPECT_EQ(owners.counts[0], (std::vector<int64_t>{112, 88}));
  const at::Tensor second = owners.own(0, 1, bank);
  EXPECT_EQ(second.sizes(), (std::vector<int64_t>{88, 1, 5}));
  EXPECT_EQ(second[0][0][0].item<int64_t>(), 112 * 5);
}

TEST(Owners, MatricesGoTheMostExpensiveFirstToTheRankThatHasLeast) {
  // 7, then 5, then 4 to the rank with 5, then 3 to the one with 7, then 1.
  const std::vector<BankWork> banks = {
      {1, 3, true}, {1, 7, true}, {1, 5, true}, {1, 4, true}, {1, 1, true}};
  const Owners owners = assign_owners(banks, 2);
  const std::vector<int64_t> of_first = {1, 1, 0, 0, 0};
  for (size_t bank = 0; bank + 1 < banks.size(); ++bank) {
    EXPECT_EQ(owners.counts[bank][0], of_first[bank]) << bank;
  }
  EXPECT_EQ(assign_owners({{5, 2, true}}, 3).counts[0], (std::vector<int64_t>{2, 2, 1}));
}

TEST(Owners, TheWorkIsThatOfTheBanksOfAStore) {
  ModelConfig config;
  config.layers = 3;
  config.width = 32;
  config.heads = 4;
  config.kv_heads = 2;
  config.vocabulary = 64;
  config.norm = "single-scale";
  config.embedding_projection = true;
  config = resolved_config(config);
  OptimConfig optim;
  for (const bool per_head : {false, true}) {
    optim.muon.per_head = per_head;
    const std::vector<ParameterSpec> specs = parameter_specs(config);
    const Routing routing = route_parameters(specs, optim, config.head_size);
    const ParameterStore store = make_parameters(config, {.group = routing.group_of});
    const std::vector<BankWork> work = work_of_banks(specs, routing, optim);
    ASSERT_EQ(work.size(), store.banks.size());
    for (size_t i = 0; i < work.size(); ++i) {
      EXPECT_EQ(work[i].count, store.banks[i].master.size(0));
      const bool is_adam = routing.groups[size_t(store.banks[i].group)].name.starts_with("adam");
      EXPECT_EQ(work[i].rows, is_adam ? store.banks[i].master.size(1) : 0);
      EXPECT_EQ(work[i].part % 16, is_adam ? 0 : 1);
      EXPECT_EQ(work[i].member, store.banks[i].members[0]);
    }
  }
}

}  // namespace
}  // namespace osp
