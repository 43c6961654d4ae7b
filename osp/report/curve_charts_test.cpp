#include "osp/report/curve_charts.h"

#include <gtest/gtest.h>

#include <cmath>

namespace osp {
namespace {

TEST(Curves, ChartsWithoutNumbersAreLeftOut) {
  RunData run;
  EXPECT_TRUE(outlier_curves({run}, 100).empty());
  EXPECT_TRUE(learning_curves({run}, 100).empty());
  run.loss.add(1, std::nan(""));
  EXPECT_TRUE(learning_curves({run}, 100).empty());
  run.loss.add(2, 3.0);
  EXPECT_EQ(learning_curves({run}, 100).size(), 1u);
}

TEST(Curves, LongRunsAreThinnedAndTheTableStaysShort) {
  RunData run;
  for (int i = 0; i < 100000; ++i) run.loss.add(i, std::sin(0.1 * i));
  const Chart chart = learning_curves({run}, 2000).at(0);
  for (const Json& trace : chart.traces) EXPECT_LE(trace["x"].size(), 2000u);
  EXPECT_EQ(chart.table.rows.size(), 24u);
  EXPECT_EQ(chart.table.rows.back()[0], "99,999");
}

}  // namespace
}  // namespace osp
