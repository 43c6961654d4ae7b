#include "osp/model/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "osp/base/philox.h"
#include "osp/base/test_error.h"

namespace osp {
namespace {

// log of these probabilities, in another order than by size
const std::vector<float> kLogits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};

std::map<int32_t, double> frequencies(const SamplingOptions& options, int draws = 20000) {
  const RandomStream random(11, "sampling_test");
  std::map<int32_t, double> result;
  for (int i = 0; i < draws; ++i) {
    result[sample_token(kLogits, options, random.uniform(static_cast<uint64_t>(i)))] += 1.0 / draws;
  }
  return result;
}

// Four standard deviations of a frequency over 20,000 draws: 4 sqrt(0.25 / 20000).
constexpr double kFourSigma = 0.0142;

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  EXPECT_EQ(sample_token(std::vector<float>{1, 3, 2, 3}, {}, 0.99), 1);
}

TEST(Sampling, TemperatureOneDrawsTheSoftmax) {
  auto seen = frequencies({.temperature = 1});
  EXPECT_NEAR(seen[0], 0.1, kFourSigma);
  EXPECT_NEAR(seen[1], 0.4, kFourSigma);
  EXPECT_NEAR(seen[2], 0.2, kFourSigma);
  EXPECT_NEAR(seen[3], 0.3, kFourSigma);
}

TEST(Sampling, TemperatureHalfSquaresTheProbabilities) {
  auto seen = frequencies({.temperature = 0.5});
  EXPECT_NEAR(seen[0], 0.01 / 0.30, kFourSigma);
  EXPECT_NEAR(seen[1], 0.16 / 0.30, kFourSigma);
}

TEST(Sampling, TopKKeepsTheKMostLikely) {
  auto seen = frequencies({.temperature = 1, .top_k = 2});
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_NEAR(seen[1], 0.4 / 0.7, kFourSigma);
  EXPECT_NEAR(seen[3], 0.3 / 0.7, kFourSigma);
}

TEST(Sampling, TopPKeepsTheFewestThatReachP) {
  auto seen = frequencies({.temperature = 1, .top_p = 0.75});
  EXPECT_EQ(seen.size(), 3u);  // 0.4 + 0.3 is below 0.75, with 0.2 above
  EXPECT_NEAR(seen[1], 0.4 / 0.9, kFourSigma);
  EXPECT_EQ(seen.count(0), 0u);
}

TEST(Sampling, TopPCountsAfterTopK) {
  // Of the top two, 0.4 / 0.7 = 0.57 alone reaches p.
  auto seen = frequencies({.temperature = 1, .top_k = 2, .top_p = 0.55});
  EXPECT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen.count(1), 1u);
}

TEST(Sampling, MinPKeepsTokensNearTheMostLikelyAndTopPCountsAfterIt) {
  auto seen = frequencies({.temperature = 1, .min_p = 0.4});
  EXPECT_EQ(seen.size(), 3u);
  EXPECT_NEAR(seen[1], 0.4 / 0.9, kFourSigma);
  // Of 0.4 / 0.7 and 0.3 / 0.7 the first reaches 0.55.
  EXPECT_EQ(frequencies({.temperature = 1, .top_p = 0.55, .min_p = 0.7}, 100).size(), 1u);
  // The temperature comes first: 1 : 0.87 : 0.71 : 0.5.
  EXPECT_EQ(frequencies({.temperature = 2, .min_p = 0.6}, 1000).size(), 3u);
  EXPECT_EQ(frequencies({.temperature = 1, .min_p = 1}, 100).size(), 1u);
}

TEST(Sampling, LargestUniformNumberGivesTheLeastLikelyToken) {
  const double below_one = std::nextafter(1.0, 0.0);
  EXPECT_EQ(sample_token(kLogits, {.temperature = 1}, below_one), 0);
  EXPECT_EQ(sample_token(kLogits, {.temperature = 1}, 0.0), 1);
}

TEST(Sampling, LogitsThatAreNotFiniteAreRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_THROW(sample_token(std::vector<float>{1, nan}, {}, 0), Error);
  EXPECT_THROW(sample_token(std::vector<float>{1, inf}, {}, 0), Error);
  EXPECT_THROW(sample_token(std::vector<float>{-inf, -inf}, {}, 0), Error);
  EXPECT_EQ(sample_token(std::vector<float>{-inf, 0}, {.temperature = 1}, 0), 1);
}

TEST(Sampling, OptionsOutOfRangeAreUsageErrors) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<SamplingOptions> bad = {
      {.temperature = -1}, {.temperature = nan}, {.top_k = -1},   {.top_p = 0},
      {.top_p = 1.5},      {.top_p = nan},       {.min_p = -0.5}, {.min_p = 1.5}};
  for (const SamplingOptions& options : bad) {
    SCOPED_TRACE(fmt::format("{} {} {}", options.temperature, options.top_k, options.top_p));
    expect_error(ErrorCode::usage, {}, [&] { check_sampling(options); });
  }
  EXPECT_NO_THROW(check_sampling({.temperature = 0.7, .top_k = 40, .top_p = 0.9}));
}

}  // namespace
}  // namespace osp
