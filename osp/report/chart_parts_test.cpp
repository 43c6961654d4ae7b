#include "osp/report/chart_parts.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(AsinhAxis, TicksCoverTheRangeInOrder) {
  const AsinhAxis axis;
  const Json ticks = axis.ticks(-0.05, 8.5);
  EXPECT_EQ(ticks["ticktext"], Json({"−0.1", "0", "0.1", "1", "10"}));
  EXPECT_EQ(axis.ticks(0, 1792)["ticktext"],
            Json({"0", "0.1", "1", "10", "100", "1,000", "10,000"}));
  for (size_t i = 1; i < ticks["tickvals"].size(); ++i) {
    EXPECT_LT(ticks["tickvals"][i - 1].get<double>(), ticks["tickvals"][i].get<double>());
  }
}

TEST(LogTicks, CoverTheRangeWithAHandfulOfTicks) {
  EXPECT_EQ(log_ticks(0.4, 6)["ticktext"],
            Json({"0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"}));
  EXPECT_EQ(log_ticks(1, 1792)["ticktext"], Json({"1", "10", "100", "1,000", "10,000"}));
  EXPECT_EQ(log_ticks(2e-4, 1)["ticktext"], Json({"10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"}));
  EXPECT_LE(log_ticks(1e-40, 1)["ticktext"].size(), 10u);
}

TEST(Ticks, ANarrowRangeBetweenThePowersHasTicksToo) {
  EXPECT_EQ(AsinhAxis{}.ticks(3.1, 4.2)["ticktext"], Json({"3", "3.5", "4", "4.5"}));
  EXPECT_EQ(log_ticks(42, 44)["ticktext"], Json({"42", "42.5", "43", "43.5", "44"}));
  EXPECT_EQ(AsinhAxis{}.ticks(5, 5)["ticktext"].empty(), false);
}

TEST(SpreadIndices, HaveBothEndsAndNoDoubles) {
  EXPECT_EQ(spread_indices(3, 5), (std::vector<size_t>{0, 1, 2}));
  EXPECT_EQ(spread_indices(101, 5), (std::vector<size_t>{0, 25, 50, 75, 100}));
}

}  // namespace
}  // namespace osp
