#include "osp/eval/outlier_summary.h"

#include <gtest/gtest.h>

#include <cmath>

namespace osp {
namespace {

OutlierReport report_of(double kurtosis) {
  OutlierReport report;
  report.tokens = 1000;
  report.mean = kurtosis;
  report.per_layer = {0.0, 2 * kurtosis};
  report.clipped_mean = 0.25;
  report.clipped_per_layer = {0.0, 0.5};
  report.largest = {
      .value = 136, .layer = 1, .sequence = 4, .position = 9, .channel = 7, .token = 3};
  return report;
}

TEST(OutlierSummary, VerdictFollowsTheKurtosis) {
  EXPECT_NE(outlier_verdict(report_of(3.36)).find("has outliers: its mean excess kurtosis is 3.36"),
            std::string::npos);
  EXPECT_NE(outlier_verdict(report_of(-0.05)).find("has no outliers"), std::string::npos);
  EXPECT_NE(outlier_verdict(report_of(NAN)).find("cannot be judged"), std::string::npos);
  const std::string text = outlier_text(report_of(3.36), nullptr);
  EXPECT_TRUE(text.ends_with(outlier_verdict(report_of(3.36)) + "\n"));
}

TEST(OutlierSummary, JsonKeepsTheModesApartAndHasNoNaN) {
  const Json json = outlier_json(report_of(3.36), nullptr);
  EXPECT_EQ(json["excess_kurtosis"]["mean"], 3.36);
  EXPECT_EQ(json["excess_kurtosis"]["clipped_mean"], 0.25);
  EXPECT_EQ(json["excess_kurtosis"]["per_layer"].size(), 2u);
  EXPECT_EQ(json["largest_activation"]["channel"], 7);
  EXPECT_TRUE(json["largest_activation"]["token"].is_null());
  EXPECT_TRUE(outlier_json(report_of(INFINITY), nullptr)["excess_kurtosis"]["mean"].is_null());
}

}  // namespace
}  // namespace osp
