#include "osp/measure/histogram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "osp/base/philox.h"

namespace osp {
namespace {

std::vector<float> with_outlier() {
  std::vector<float> x(5000);
  RandomStream(3, "histogram_test").fill_normal(x, 0.0, 0.3);
  x[4000] = -97.5f;
  x[10] = -1e-30f;
  x[11] = 0.0f;
  return x;
}

void expect_equal(const Histogram& a, const Histogram& b) {
  EXPECT_EQ(a.range(), b.range());
  EXPECT_EQ(a.num_not_finite(), b.num_not_finite());
  for (int64_t bin = 0; bin < Histogram::kBins; ++bin) EXPECT_EQ(a.count(bin), b.count(bin)) << bin;
}

TEST(Histogram, EveryNumberFallsIntoItsBin) {
  const std::vector<float> x = with_outlier();
  Histogram histogram;
  histogram.add(x);
  EXPECT_EQ(histogram.range(), 128.0);  // the first power of two above 97.5
  std::vector<int64_t> expected(Histogram::kBins);
  for (const float value : x) {
    for (int64_t bin = 0; bin < Histogram::kBins; ++bin) {
      const double low = -128.0 + 0.5 * static_cast<double>(bin);
      if (value >= low && value < low + 0.5) ++expected[static_cast<size_t>(bin)];
    }
  }
  for (int64_t bin = 0; bin < Histogram::kBins; ++bin) {
    EXPECT_EQ(histogram.count(bin), expected[static_cast<size_t>(bin)]) << bin;
  }
}

TEST(Histogram, OrderAndPartitionDoNotMatter) {
  const std::vector<float> x = with_outlier();
  Histogram whole;
  whole.add(x);
  for (const size_t piece : {1u, 13u, 1000u}) {
    Histogram pieces, joined_backward;
    std::vector<Histogram> parts;
    for (size_t begin = 0; begin < x.size(); begin += piece) {
      const auto block = std::span(x).subspan(begin, std::min(piece, x.size() - begin));
      pieces.add(block);
      parts.emplace_back().add(block);
    }
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) joined_backward.merge(*part);
    expect_equal(pieces, whole);
    expect_equal(joined_backward, whole);
  }
}

TEST(Histogram, PowersOfTwoAndNotFiniteNumbersAreCounted) {
  const std::vector<float> x = {2.0f, -2.0f, INFINITY, NAN, 1.0f};
  Histogram histogram;
  histogram.add(x);
  EXPECT_EQ(histogram.range(), 4.0);  // 2 itself lies outside [−2, 2)
  EXPECT_EQ(histogram.num_not_finite(), 2);
  const Histogram::Occupied occupied = histogram.occupied();
  EXPECT_EQ(occupied.low, -2.0);
  EXPECT_EQ(occupied.high, 2.0 + histogram.bin_width());
  EXPECT_EQ(std::accumulate(occupied.counts.begin(), occupied.counts.end(), int64_t{0}), 3);
  EXPECT_TRUE(Histogram().occupied().counts.empty());
}

}  // namespace
}  // namespace osp
