#include "osp/bench/summary.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

std::vector<Json> runs_of_seconds(const std::vector<double>& seconds) {
  std::vector<Json> runs;
  for (const double value : seconds) runs.push_back({{"seconds", value}});
  return runs;
}

TEST(Summary, TheMedianIsOverRuns) {
  EXPECT_EQ(median_of(runs_of_seconds({9, 1, 2}), "seconds"), 2);
  EXPECT_EQ(median_of(runs_of_seconds({1, 4, 2, 3}), "seconds"), 2.5);
}

TEST(Summary, RatiosAreOfPairsSoThatABusyMachineDoesNotCount) {
  // The peer takes twice as long every time; the machine was busy during the second pair.
  const auto peer = runs_of_seconds({2, 20, 4}), ours = runs_of_seconds({1, 10, 2});
  EXPECT_EQ(ratios_by_pair(peer, ours, "seconds"), (std::vector<double>{2, 2, 2}));
  EXPECT_EQ(median_ratio(peer, runs_of_seconds({1, 5, 4}), "seconds"), 2);
}

TEST(Summary, AMissingNumberIsEmptyText) {
  const Json object = {{"seconds", 1.25}, {"ratio", nullptr}};
  EXPECT_EQ(number_text(object, "seconds", 1), "1.2");
  EXPECT_EQ(number_text(object, "ratio", 1), "");
  EXPECT_EQ(number_text(object, "other", 1), "");
}

}  // namespace
}  // namespace osp
