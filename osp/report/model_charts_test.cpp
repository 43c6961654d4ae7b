#include "osp/report/model_charts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace osp {
namespace {

RunData run_with_histogram(double scale) {
  RunData run;
  run.label = "<b>run</b>";
  ReportedHistogram histogram{.point = "residual",
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

TEST(ModelCharts, AModelWithoutAnalysisHasNone) {
  EXPECT_TRUE(model_charts({RunData{}}, 100).empty());
}

}  // namespace
}  // namespace osp
