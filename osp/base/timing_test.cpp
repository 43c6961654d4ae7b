#include "osp/base/timing.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(Timing, MedianIsTheMiddleOrTheMeanOfTheMiddleTwo) {
  EXPECT_EQ(median({3}), 3);
  EXPECT_EQ(median({9, 1, 4}), 4);
  EXPECT_EQ(median({9, 1, 4, 2}), 3);
}

TEST(Timing, ProcessSecondsGrowWithWork) {
  const double start = process_cpu_seconds();
  volatile double sum = 0;
  while (process_cpu_seconds() - start < 1e-3) sum = sum + 1;
  EXPECT_GT(sum, 0);
}

TEST(Seconds, AreTheSameOnEveryMonotonicClock) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(seconds_between(start, start + std::chrono::milliseconds(1500)), 1.5);
  const double before = clock_seconds();
  EXPECT_LE(before, clock_seconds());
  EXPECT_GE(seconds_since(start), 0.0);
  EXPECT_GT(wall_clock_seconds(), 1.7e9);  // after 2023
}

}  // namespace
}  // namespace osp
