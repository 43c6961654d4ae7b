#include "osp/ranks/owners.h"

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

}  // namespace
}  // namespace osp
