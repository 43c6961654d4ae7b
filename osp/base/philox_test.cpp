#include "osp/base/philox.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace osp {
namespace {

using Words = std::array<uint32_t, 4>;

// The three known answers that Random123 publishes for philox4x32 with 10 rounds.
TEST(Philox, Random123KnownAnswers) {
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox(~0ull, ~0ull, ~0ull), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomStream, IsAFunctionOfSeedNameStepAndIndexAlone) {
  const RandomStream stream(7, "weights", 3);
  EXPECT_EQ(stream.bits64(5), RandomStream(7, "weights", 3).bits64(5));
  std::set<uint64_t> values = {
      stream.bits64(5), stream.bits64(6), RandomStream(8, "weights", 3).bits64(5),
      RandomStream(7, "weight", 3).bits64(5), RandomStream(7, "weights", 4).bits64(5)};
  EXPECT_EQ(values.size(), 5u);
}

TEST(RandomStream, UniformAndBelowStayInRangeAndReachBothEnds) {
  const RandomStream stream(1, "range");
  double low = 1, high = 0;
  std::set<uint64_t> seen;
  for (uint64_t i = 0; i < 10'000; ++i) {
    const double u = stream.uniform(i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    low = std::min(low, u);
    high = std::max(high, u);
    const uint64_t k = stream.below(i, 5);
    ASSERT_LT(k, 5u);
    seen.insert(k);
  }
  // P(no draw of 10,000 below 0.002) = 0.998^10000 = 2e-9; the draws are fixed anyway.
  EXPECT_LT(low, 0.002);
  EXPECT_GT(high, 0.998);
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_EQ(stream.below(3, 1), 0u);
}

TEST(RandomStream, NormalsHaveTheMomentsAskedFor) {
  constexpr size_t kCount = 100'001;  // odd: the last pair is cut
  std::vector<float> x(kCount);
  RandomStream(3, "normal").fill_normal(x, 2.0, 0.5);
  double mean = 0, square = 0, fourth = 0;
  for (const float v : x) mean += v / double{kCount};
  for (const float v : x) {
    const double d = v - mean;
    square += d * d / double{kCount};
    fourth += d * d * d * d / double{kCount};
  }
  // Five standard errors: 0.5/sqrt(n) for the mean, sqrt(2/n) relative for the variance,
  // sqrt(24/n) for the kurtosis.
  const double root_n = std::sqrt(double{kCount});
  EXPECT_NEAR(mean, 2.0, 5 * 0.5 / root_n);
  EXPECT_NEAR(square, 0.25, 5 * 0.25 * std::sqrt(2.0) / root_n);
  EXPECT_NEAR(fourth / (square * square), 3.0, 5 * std::sqrt(24.0) / root_n);
}

TEST(RandomStream, APrefixOfNormalsDoesNotDependOnTheLength) {
  std::vector<float> whole(9), part(4);
  const RandomStream stream(3, "prefix");
  stream.fill_normal(whole, 0, 1);
  stream.fill_normal(part, 0, 1);
  EXPECT_EQ(part, std::vector<float>(whole.begin(), whole.begin() + 4));
}

TEST(ShuffledIndex, IsABijectionForEverySmallSize) {
  for (uint64_t size = 1; size <= 300; ++size) {
    std::set<uint64_t> images;
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t image = shuffled_index(i, size, 11, "epoch", size);
      ASSERT_LT(image, size);
      images.insert(image);
    }
    ASSERT_EQ(images.size(), size);
  }
}

TEST(ShuffledIndex, IsABijectionAtAPrimeSizeAndDiffersByRound) {
  constexpr uint64_t kSize = 65'537;
  std::vector<bool> seen(kSize, false);
  uint64_t fixed_points = 0, same_as_next_round = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    const uint64_t image = shuffled_index(i, kSize, 5, "data", 0);
    ASSERT_FALSE(seen[image]) << i;
    seen[image] = true;
    fixed_points += image == i;
    same_as_next_round += image == shuffled_index(i, kSize, 5, "data", 1);
  }
  // Both counts are about Poisson(1) for random permutations; 20 is impossible by chance.
  EXPECT_LT(fixed_points, 20u);
  EXPECT_LT(same_as_next_round, 20u);
}

TEST(ShuffledIndex, StaysInRangeForTheLargestSizes) {
  for (const uint64_t size : {(uint64_t{1} << 63) + 1, ~uint64_t{0}}) {
    const uint64_t first = shuffled_index(0, size, 1, "huge", 0);
    const uint64_t last = shuffled_index(size - 1, size, 1, "huge", 0);
    EXPECT_LT(first, size);
    EXPECT_LT(last, size);
    EXPECT_NE(first, last);
  }
}

}  // namespace
}  // namespace osp
