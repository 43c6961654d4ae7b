#include "osp/report/charts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace osp {
namespace {

RunData run_with_histogram(double scale) {
  RunData run;
  run.label = "<b>run</b>";
  Histogram histogram{.point = "residual",
                      .layer = 2,
                      .low = -6 * scale,
                      .high = 6 * scale,
                      .counts = {},
                      .mean = 0,
                      .std = scale};
  for (int i = 0; i < 600; ++i) {
    const double x = -6 + (i + 0.5) * 12 / 600;
    histogram.counts.push_back(std::round(1e9 * std::exp(-x * x / 2)));
  }
  run.histograms = {histogram};
  return run;
}

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

TEST(Histogram, OfAGaussianLiesOnTheGaussianWhateverItsScale) {
  for (const double scale : {1.0, 250.0}) {
    const auto charts = model_charts({run_with_histogram(scale)}, 2000);
    ASSERT_EQ(charts.size(), 1u);
    const Json& trace = charts[0].traces[0];
    EXPECT_EQ(trace["name"], "&lt;b&gt;run&lt;/b&gt;");
    for (size_t i = 200; i < 400; ++i) {
      const Json& grid = trace["meta"]["grid"];
      const double x = grid["low"].get<double>() + i * grid["step"].get<double>();
      const double expected = std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi);
      // Six digits are kept and ±6 standard deviations hold all but 2e-9 of the mass.
      EXPECT_NEAR(trace["y"][i].get<double>(), expected, 1e-5);
    }
  }
}

TEST(Curves, ChartsWithoutNumbersAreLeftOut) {
  RunData run;
  EXPECT_TRUE(outlier_curves({run}, 100).empty());
  EXPECT_TRUE(learning_curves({run}, 100).empty());
  EXPECT_TRUE(model_charts({run}, 100).empty());
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

TEST(LogTicks, CoverTheRangeWithAHandfulOfTicks) {
  EXPECT_EQ(log_ticks(0.4, 6)["ticktext"],
            Json({"0.1", "0.2", "0.5", "1", "2", "5", "10", "20", "50"}));
  EXPECT_EQ(log_ticks(1, 1792)["ticktext"], Json({"1", "10", "100", "1,000", "10,000"}));
  EXPECT_EQ(log_ticks(2e-4, 1)["ticktext"], Json({"10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"}));
  EXPECT_LE(log_ticks(1e-40, 1)["ticktext"].size(), 10u);
}

TEST(HeatMap, KeepsASpikeOfOneValidationInOneLayer) {
  for (const size_t at : {0u, 4321u, 9999u}) {
    RunData run;
    for (size_t i = 0; i < 10000; ++i) {
      run.kurtosis.add(static_cast<double>(i), 0.1);
      run.kurtosis_per_layer.push_back({0.1, i == at ? 77.0 : 0.1, i % 7 == 0 ? kNan : 0.1});
    }
    const Chart chart = kurtosis_heat_map({run});
    const Json& layer = chart.traces[0]["customdata"][1];
    EXPECT_LE(layer.size(), 120u);
    EXPECT_EQ(std::count(layer.begin(), layer.end(), Json(77.0)), 1) << at;
  }
}

TEST(SpreadIndices, HaveBothEndsAndNoDoubles) {
  EXPECT_EQ(spread_indices(3, 5), (std::vector<size_t>{0, 1, 2}));
  EXPECT_EQ(spread_indices(101, 5), (std::vector<size_t>{0, 25, 50, 75, 100}));
}

}  // namespace
}  // namespace osp
