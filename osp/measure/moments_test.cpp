#include "osp/measure/moments.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "osp/base/philox.h"

namespace osp {
namespace {

std::vector<float> gaussian(int64_t count, double mean = 0.0, double deviation = 1.0) {
  std::vector<float> x(static_cast<size_t>(count));
  RandomStream(7, "moments_test").fill_normal(x, mean, deviation);
  return x;
}

TEST(Moments, SmallBlockHasExactValues) {
  // mean 2, differences −2 −1 0 1 2: squares sum to 10, fourth powers to 34.
  const std::vector<float> x = {0, 1, 2, 3, 4};
  const Moments m = moments_of(x);
  EXPECT_EQ(m.count, 5);
  EXPECT_EQ(m.mean, 2.0);
  EXPECT_EQ(m.m2, 10.0);
  EXPECT_EQ(m.m3, 0.0);
  EXPECT_EQ(m.m4, 34.0);
  EXPECT_EQ(m.variance(), 2.0);
  EXPECT_DOUBLE_EQ(excess_kurtosis(m), 34.0 / 5.0 / 4.0 - 3.0);
  // Σx⁴/5 = 354/5, s² = 10/4: 70.8 / 6.25 − 3.
  EXPECT_DOUBLE_EQ(clipped_kurtosis(m), 70.8 / 6.25 - 3.0);
}

TEST(Moments, KurtosisOfKnownLawsIsTheirs) {
  const int64_t n = 1 << 20;
  // Standard error of the sample kurtosis of a Gaussian is sqrt(24/n) = 0.005: 4 of them.
  EXPECT_NEAR(excess_kurtosis(moments_of(gaussian(n, 3.0, 2.0))), 0.0, 0.02);
  std::vector<float> laplace(static_cast<size_t>(n)), uniform(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    // Quantiles at the middles of n equal parts: no sampling noise.
    const double u = (static_cast<double>(i) + 0.5) / static_cast<double>(n);
    uniform[static_cast<size_t>(i)] = static_cast<float>(u);
    laplace[static_cast<size_t>(i)] =
        static_cast<float>(u < 0.5 ? std::log(2 * u) : -std::log(2 - 2 * u));
  }
  // The grid of quantiles cuts the tail: its fourth moment misses about log⁴(n)/n = 0.04 of 24.
  EXPECT_NEAR(excess_kurtosis(moments_of(laplace)), 3.0, 0.05);
  // 1.2 up to float rounding of the quantiles and 1/n².
  EXPECT_NEAR(excess_kurtosis(moments_of(uniform)), -1.2, 1e-6);
}

TEST(Moments, OneOutlierAmongManyGivesNearlyTheWidth) {
  std::vector<float> x(256, 0.0f);
  x[17] = 100.0f;
  // For one nonzero of n: n·m4/m2² − 3 = (n² − 3n + 3)/(n − 1) − 3.
  const double n = 256.0;
  EXPECT_NEAR(excess_kurtosis(moments_of(x)), (n * n - 3 * n + 3) / (n - 1) - 3.0, 1e-9);
}

TEST(Moments, NaiveTwinAgrees) {
  const std::vector<float> x = gaussian(1000, 0.5, 2.0);
  const Moments fast = moments_of(x), naive = moments_reference(x);
  EXPECT_EQ(fast.count, naive.count);
  // fp64 sums of 1000 terms: 1e-12 is ten thousand roundings of room.
  EXPECT_NEAR(fast.mean, naive.mean, 1e-12);
  EXPECT_NEAR(fast.m2 / naive.m2, 1.0, 1e-12);
  EXPECT_NEAR(fast.m3, naive.m3, 1e-12 * naive.m4);
  EXPECT_NEAR(fast.m4 / naive.m4, 1.0, 1e-12);
}

TEST(Moments, EveryInstructionSetHasTheSameBits) {
  for (const int64_t count : {1, 7, 16, 31, 128, 1000}) {
    std::vector<float> x = gaussian(count, 0.3, 2.0);
    x[static_cast<size_t>(count / 2)] = -1000.0f;
    kernels::RowSums portable{}, active{};
    kernels::moment_kernels_portable().row_sums(x.data(), count, portable);
    moment_kernels().row_sums(x.data(), count, active);
    EXPECT_EQ(portable.mean, active.mean);
    EXPECT_EQ(portable.m2, active.m2);
    EXPECT_EQ(portable.m3, active.m3);
    EXPECT_EQ(portable.m4, active.m4);
    EXPECT_EQ(portable.largest, 1000.0f);
    EXPECT_EQ(active.largest, 1000.0f);
  }
}

TEST(Moments, LargestPassesOverNaN) {
  for (const size_t place : {0u, 5u, 17u}) {
    std::vector<float> x(18, -2.0f);
    x[place] = std::numeric_limits<float>::quiet_NaN();
    float largest = 0;
    EXPECT_TRUE(std::isnan(moments_of(x, largest).mean));
    EXPECT_EQ(largest, 2.0f);
  }
}

TEST(Moments, SplittingAndMergingChangesNothingButRounding) {
  const std::vector<float> x = gaussian(10000, -4.0, 0.25);
  const Moments whole = moments_of(x);
  for (const size_t piece : {1u, 7u, 256u, 9999u}) {
    Moments forward, backward;
    for (size_t begin = 0; begin < x.size(); begin += piece) {
      forward.add(std::span(x).subspan(begin, std::min(piece, x.size() - begin)));
    }
    for (size_t end = x.size(); end > 0; end -= std::min(piece, end)) {
      const size_t begin = end - std::min(piece, end);
      backward.add(std::span(x).subspan(begin, end - begin));
    }
    for (const Moments& joined : {forward, backward}) {
      EXPECT_EQ(joined.count, whole.count);
      // 10,000 merges in fp64, each within a few units of 1e-16.
      EXPECT_NEAR(joined.mean / whole.mean, 1.0, 1e-12);
      EXPECT_NEAR(joined.m2 / whole.m2, 1.0, 1e-11);
      EXPECT_NEAR(excess_kurtosis(joined), excess_kurtosis(whole), 1e-10);
      EXPECT_NEAR(clipped_kurtosis(joined) / clipped_kurtosis(whole), 1.0, 1e-10);
    }
  }
}

TEST(Moments, LargeMeanDoesNotDestroyTheKurtosis) {
  // Raw fourth powers of 4096 ± 1 in fp64 would leave about three digits of the central moment.
  std::vector<float> x = gaussian(4096);
  for (float& value : x) value = std::round(value * 64.0f) / 64.0f;
  const double expected = excess_kurtosis(moments_of(x));
  for (float& value : x) value += 4096.0f;  // exact: 64ths at this size fit in a float
  EXPECT_NEAR(excess_kurtosis(moments_of(x)), expected, 1e-9);
}

TEST(Moments, ModesDifferAsDocumented) {
  // Bounded numbers: centred kurtosis is negative, the clipped mode gives 0.
  const std::vector<float> signs = {-1, 1, -1, 1, -1, 1, -1, 1};
  EXPECT_DOUBLE_EQ(excess_kurtosis(moments_of(signs)), -2.0);
  EXPECT_EQ(clipped_kurtosis(moments_of(signs)), 0.0);
  // A shifted mean raises only the mode whose numerator is not centred.
  const std::vector<float> shifted = {9, 11, 9, 11, 9, 11, 9, 11};
  EXPECT_DOUBLE_EQ(excess_kurtosis(moments_of(shifted)), -2.0);
  EXPECT_GT(clipped_kurtosis(moments_of(shifted)), 1000.0);
}

TEST(Moments, ConstantAndNotFiniteRowsGiveNaN) {
  EXPECT_TRUE(std::isnan(excess_kurtosis(moments_of(std::vector<float>(8, 2.0f)))));
  EXPECT_TRUE(std::isnan(clipped_kurtosis(moments_of(std::vector<float>(8, 2.0f)))));
  const std::vector<float> broken = {1, 2, INFINITY, 4};
  EXPECT_TRUE(std::isnan(excess_kurtosis(moments_of(broken))));
  EXPECT_TRUE(std::isnan(clipped_kurtosis(moments_of(broken))));
}

}  // namespace
}  // namespace osp
