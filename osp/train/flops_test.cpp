#include "osp/train/flops.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(PeakRate, AMeasuredPeakThatIsExceededIsMeasuredAgain) {
  double machine = 10;
  int measured = 0;
  PeakRate peak(0, [&] {
    ++measured;
    return machine;
  });
  EXPECT_EQ(peak.share(5), 0.5);
  machine = 40;
  EXPECT_EQ(peak.share(10), 1.0);
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(peak.share(20), 0.5);
  EXPECT_EQ(measured, 2);
}

TEST(PeakRate, WhatWasReachedIsNeverMoreThanAMeasuredPeak) {
  PeakRate peak(0, [] { return 10.0; });
  EXPECT_EQ(peak.share(20), 1.0);
  EXPECT_EQ(peak.share(10), 0.5);
}

TEST(PeakRate, AGivenPeakStands) {
  PeakRate peak(10, []() -> double { throw std::logic_error("measured"); });
  EXPECT_EQ(peak.share(20), 2.0);
}

TEST(MeasuredFlops, AreThoseOfAMachine) {
  // From a slow core under a sanitizer to a server.
  const double rate = measured_flops_per_s("fp32", "cpu");
  EXPECT_GT(rate, 1e6);
  EXPECT_LT(rate, 1e15);
}

}  // namespace
}  // namespace osp
