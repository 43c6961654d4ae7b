#include "osp/report/series.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace osp {
namespace {

// A fixed bumpy curve with `holes` non-finite values spread over it.
Series bumpy(size_t size, size_t holes = 0) {
  Series series;
  for (size_t i = 0; i < size; ++i) {
    const double x = static_cast<double>(i);
    series.add(64.0 * x, std::sin(0.37 * x) + 0.2 * std::cos(11.3 * x));
  }
  for (size_t h = 0; h < holes; ++h) series.values[(h * 7919 + 13) % size] = kNan;
  return series;
}

TEST(Thin, ShortCurveIsReturnedAsItIs) {
  const Series series = bumpy(50);
  EXPECT_EQ(thin(series, 50).values, series.values);
}

TEST(Thin, KeepsEndsOrderAndLimit) {
  for (const size_t size : {51u, 99u, 1000u, 12345u}) {
    for (const size_t limit : {4u, 7u, 50u}) {
      const Series series = bumpy(size);
      const Series thinned = thin(series, limit);
      EXPECT_LE(thinned.size(), limit);
      EXPECT_EQ(thinned.tokens.front(), series.tokens.front());
      EXPECT_EQ(thinned.tokens.back(), series.tokens.back());
      EXPECT_TRUE(std::is_sorted(thinned.tokens.begin(), thinned.tokens.end()));
    }
  }
}

TEST(Thin, KeepsEverySinglePointSpike) {
  for (size_t at = 0; at < 3000; at += 37) {
    Series series = bumpy(3000);
    series.values[at] = 1e6;
    const Series thinned = thin(series, 100);
    const auto found = std::find(thinned.values.begin(), thinned.values.end(), 1e6);
    ASSERT_NE(found, thinned.values.end()) << at;
    EXPECT_EQ(thinned.tokens[static_cast<size_t>(found - thinned.values.begin())],
              series.tokens[at]);
  }
}

TEST(Thin, StretchWithoutFiniteValuesBecomesAGap) {
  Series series = bumpy(1000);
  std::fill(series.values.begin() + 300, series.values.begin() + 600, kNan);
  const Series thinned = thin(series, 40);
  EXPECT_TRUE(std::any_of(thinned.values.begin(), thinned.values.end(),
                          [](double v) { return std::isnan(v); }));
}

TEST(Smooth, EqualsTheReferenceTwin) {
  for (const size_t size : {1u, 2u, 99u, 500u}) {
    for (const size_t window : {1u, 2u, 5u, 101u}) {
      const Series series = bumpy(size, size / 4);
      const Series fast = smooth(series, window);
      const Series slow = smooth_reference(series, window);
      ASSERT_EQ(fast.size(), slow.size());
      for (size_t i = 0; i < size; ++i) {
        ASSERT_EQ(std::isnan(fast.values[i]), std::isnan(slow.values[i])) << i;
        // Prefix sums of up to 500 values of size 1 round at 500 * 2^-53.
        if (!std::isnan(slow.values[i])) {
          EXPECT_NEAR(fast.values[i], slow.values[i], 1e-12);
        }
      }
    }
  }
}

TEST(Smooth, LeavesAStraightLineWhereItIs) {
  Series line;
  for (int i = 0; i < 200; ++i) line.add(i, 3.0 * i);
  const Series smoothed = smooth(line, 21);
  for (size_t i = 0; i < line.size(); ++i) {
    // A centred mean of a line is the line; sums of integers below 2^53 are exact.
    EXPECT_DOUBLE_EQ(smoothed.values[i], line.values[i]);
  }
}

TEST(ToJsonArray, RoundsAndWritesNonFiniteAsNull) {
  EXPECT_EQ(to_json_array({1.23456789, kNan, -0.0000012345678, 16384.0}).dump(),
            "[1.23457,null,-1.23457e-06,16384.0]");
}

}  // namespace
}  // namespace osp
