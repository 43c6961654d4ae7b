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

}  // namespace
}  // namespace osp
