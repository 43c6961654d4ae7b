// Mixtures: which source a sequence is taken from, how often, and that none is left out.
#include "osp/data/mixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/data/batch.h"
#include "osp/data/test_shards.h"

namespace osp {
namespace {

// Three sets whose tokens tell them apart: ids below 100, of 100 and more, of 200 and more.
struct ThreeSources : ::testing::Test {
  TestFolder folder;
  std::vector<TokenDataset> sets;
  void SetUp() override {
    for (int64_t k = 0; k < 3; ++k) {
      std::vector<int64_t> ids;
      for (int64_t i = 0; i < 41 + 20 * k; ++i) ids.push_back(100 * k + i);
      sets.push_back(TokenDataset::from_memory(ids, 300));
    }
  }
  Mixture mixture(const std::vector<double>& weights) const {
    std::vector<MixtureSource> sources;
    for (size_t k = 0; k < weights.size(); ++k) {
      sources.push_back({"s" + std::to_string(k), &sets[k], weights[k]});
    }
    return Mixture(sources);
  }
};

using MixtureOf = ThreeSources;

TEST_F(MixtureOf, VisitsOfEachSourceComeInOrderWithoutGapsAndInProportion) {
  const Mixture mixed = mixture({0.5, 0.3, 0.2});
  const uint64_t visits = 2 * kMixtureBlock + 1000;
  std::vector<uint64_t> next(3);
  for (uint64_t v = 0; v < visits; ++v) {
    const Mixture::Visit visit = mixed.at(v, 7);
    ASSERT_EQ(visit.number, next[visit.source]++) << "visit " << v;
  }
  std::vector<uint64_t> counted;
  mixed.count(0, visits, 7, counted);
  EXPECT_EQ(counted, next);
  // Whole blocks are divided exactly, to one part in 65536.
  EXPECT_NEAR(mixed.share(0), 0.5, 1.0 / kMixtureBlock);
  EXPECT_NEAR(mixed.share(1), 0.3, 1.0 / kMixtureBlock);
  EXPECT_EQ(mixed.share(0) + mixed.share(1) + mixed.share(2), 1.0);
  // Inside of a block shares are those of draws without replacement: 3 standard deviations.
  std::vector<uint64_t> early;
  mixed.count(0, 1000, 7, early);
  EXPECT_NEAR(static_cast<double>(early[1]), 300, 3 * std::sqrt(1000 * 0.3 * 0.7));
}

TEST_F(MixtureOf, CountsOfPartsAddUp) {
  const Mixture mixed = mixture({1, 2, 3});
  std::vector<uint64_t> whole, parts;
  mixed.count(0, 200000, 3, whole);
  for (const auto& [begin, end] : {std::pair{0, 5}, {5, 70000}, {70000, 70000}, {70000, 200000}}) {
    mixed.count(static_cast<uint64_t>(begin), static_cast<uint64_t>(end), 3, parts);
  }
  EXPECT_EQ(whole, parts);
}

TEST_F(MixtureOf, OneSourceIsTheStreamOfItsDataAlone) {
  const BatchPlan plan{.seed = 5, .context = 4, .sequences_per_step = 3};
  const Mixture one({{"named", &sets[1], 0.001}});
  for (int64_t step = 0; step < 12; ++step) {
    EXPECT_EQ(read_batch(one, plan, step, 0, 3, false).tokens,
              read_batch(sets[1], plan, step, 0, 3, false).tokens);
  }
}

TEST_F(MixtureOf, EverySourcesWindowsAreVisitedOnceAnEpoch) {
  const Mixture mixed = mixture({0.5, 0.3, 0.2});
  const BatchPlan plan{.seed = 1, .context = 4, .sequences_per_step = 7};
  std::vector<std::vector<int64_t>> begins(3);
  for (int64_t step = 0; step < 60; ++step) {
    const Batch batch = read_batch(mixed, plan, step, 0, 7, false);
    for (size_t row = 0; row < 7; ++row) {
      const int64_t first = batch.tokens[row * 4];
      begins[static_cast<size_t>(first / 100)].push_back(first % 100);
      EXPECT_EQ(batch.targets[row * 4 + 3], first + 4);
    }
  }
  for (size_t k = 0; k < 3; ++k) {
    const size_t windows = num_windows(sets[k], 4);
    ASSERT_GT(begins[k].size(), 3 * windows);
    for (size_t first = 0; first + windows <= begins[k].size(); first += windows) {
      const auto epoch = begins[k].begin() + static_cast<std::ptrdiff_t>(first);
      std::vector<int64_t> places(epoch, epoch + static_cast<std::ptrdiff_t>(windows));
      EXPECT_FALSE(std::is_sorted(places.begin(), places.end()));
      std::sort(places.begin(), places.end());
      for (size_t w = 0; w < windows; ++w) EXPECT_EQ(places[w], static_cast<int64_t>(4 * w));
    }
  }
}

TEST_F(MixtureOf, AStepIsTheSameHoweverRanksCutIt) {
  const Mixture mixed = mixture({0.6, 0.3, 0.1});
  const BatchPlan plan{.seed = 9, .context = 4, .sequences_per_step = 8};
  for (const int64_t ranks : {2, 4}) {
    for (const int64_t step : {0, 3, 70000}) {
      Batch joined;
      for (int64_t first = 0; first < 8; first += 8 / ranks) {
        const Batch part =
            read_batch(mixture({0.6, 0.3, 0.1}), plan, step, first, 8 / ranks, false);
        joined.tokens.insert(joined.tokens.end(), part.tokens.begin(), part.tokens.end());
      }
      EXPECT_EQ(joined.tokens, read_batch(mixed, plan, step, 0, 8, false).tokens);
    }
  }
}

TEST_F(MixtureOf, WeightsThatDivideNothingAreRefusedByName) {
  for (const double weight : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    expect_error(ErrorCode::usage, {"data.source s1", "weight"}, [&] { mixture({1, weight, 1}); });
  }
  expect_error(ErrorCode::usage, {"data.source s2", "1/65536"}, [&] { mixture({1, 1, 1e-6}); });
}

TEST_F(MixtureOf, ASourceWithoutAWholeWindowIsRefusedByName) {
  const BatchPlan plan{.seed = 1, .context = 50, .sequences_per_step = 1};
  expect_error(ErrorCode::usage, {"data.source s0 has 41 tokens", "sequence of 50"}, [&] {
    read_batch(mixture({1, 1, 1}), plan, 0, 0, 1, false);
  });
}

}  // namespace
}  // namespace osp
