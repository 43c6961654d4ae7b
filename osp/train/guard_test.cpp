// The guard's promises: nothing that is not finite passes or is remembered, spikes are skipped as
// configured, the state survives a checkpoint.
#include "osp/train/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "osp/base/test_error.h"

namespace osp {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

Guard filled(const GuardConfig& config, int count) {
  Guard guard(config);
  for (int i = 0; i < count; ++i) {
    EXPECT_EQ(guard.judge(i, 3.0 + 0.01 * (i % 5), 1.0 + 0.1 * (i % 3)), "");
  }
  return guard;
}

TEST(Guard, NonFiniteValuesAreSkippedAndNeverEnterTheWindow) {
  Guard guard = filled({.loss_z = 6, .gradient_norm_z = 6}, 20);
  for (const double bad : {kNan, kInf, -kInf}) {
    EXPECT_NE(guard.judge(20, bad, 1.0), "");
    EXPECT_NE(guard.judge(20, 3.0, bad), "");
  }
  EXPECT_EQ(guard.window_size(), 20u);
  EXPECT_EQ(guard.skipped(), 6);
  EXPECT_EQ(guard.to_json().dump().find("null"), std::string::npos);
}

// The kind: a finite gradient whose square is not.
TEST(Guard, AGradientWhoseSquareOverflowsIsSkipped) {
  Guard guard = filled({}, 20);
  for (const double norm : {2e18, 1e20, 3e38}) EXPECT_NE(guard.judge(20, 3.0, norm), "") << norm;
  EXPECT_EQ(guard.judge(20, 3.0, 1e17), "");
}

TEST(Guard, AnEmptyStepNeitherEntersTheWindowNorBreaksAStreak) {
  Guard guard = filled({.max_consecutive_skips = 3}, 10);
  EXPECT_NE(guard.judge(10, kNan, 1.0), "");
  guard.count_empty();
  EXPECT_EQ(guard.consecutive(), 1);
  EXPECT_EQ(guard.skipped(), 2);
  EXPECT_EQ(guard.window_size(), 10u);
}

TEST(Guard, OneNanDoesNotDisableIt) {
  Guard guard = filled({.loss_z = 6}, 20);
  EXPECT_NE(guard.judge(20, kNan, 1.0), "");
  EXPECT_NE(guard.judge(21, 30.0, 1.0), "") << "a spike after a NaN must still be seen";
  EXPECT_EQ(guard.judge(22, 3.01, 1.0), "");
}

TEST(Guard, SpikesOfLossAndOfGradientNormAreSkippedOnlyIfAskedFor) {
  EXPECT_EQ(filled({}, 20).judge(20, 30.0, 50.0), "");
  EXPECT_NE(filled({.loss_z = 6}, 20).judge(20, 30.0, 1.0), "");
  EXPECT_EQ(filled({.loss_z = 6}, 20).judge(20, 3.0, 50.0), "");
  EXPECT_NE(filled({.gradient_norm_z = 6}, 20).judge(20, 3.0, 50.0), "");
}

TEST(Guard, AFallingLossIsNoSpike) {
  EXPECT_EQ(filled({.loss_z = 6, .gradient_norm_z = 6}, 20).judge(20, 0.5, 0.01), "");
}

TEST(Guard, TooManySkipsInARowDiverge) {
  Guard guard = filled({.max_consecutive_skips = 3}, 10);
  EXPECT_NE(guard.judge(10, kNan, 1.0), "");
  EXPECT_NE(guard.judge(11, kNan, 1.0), "");
  EXPECT_EQ(guard.judge(12, 3.0, 1.0), "") << "an accepted step starts the count anew";
  EXPECT_NE(guard.judge(13, kNan, 1.0), "");
  EXPECT_NE(guard.judge(14, kNan, 1.0), "");
  // The third skip in a row ends the run.
  expect_error(ErrorCode::diverged, {"step 15: the loss is nan; 3 steps in a row"},
               [&] { guard.judge(15, kNan, 1.0); });
}

TEST(Guard, TheWindowHoldsTheLastAcceptedSteps) {
  EXPECT_EQ(filled({.window = 8}, 50).window_size(), 8u);
}

TEST(Guard, StateSurvivesJsonBitForBit) {
  const GuardConfig config{.loss_z = 4, .window = 16};
  Guard guard(config);
  for (int i = 0; i < 30; ++i) guard.judge(i, 1.0 / 3.0 + std::sin(i), std::exp(0.1 * i));
  guard.judge(30, kNan, 1.0);
  Guard restored(config);
  restored.from_json(parse_json(guard.to_json().dump(), "test"), "test");
  EXPECT_EQ(restored.to_json(), guard.to_json());
  EXPECT_EQ(restored.judge(31, 9.0, 1.0), guard.judge(31, 9.0, 1.0));
}

TEST(Guard, ADamagedStateIsRefused) {
  Guard guard({});
  for (const char* text :
       {"{}", R"({"losses":[null],"gradient_norms":[],"skipped":0,"consecutive":0})",
        R"({"losses":3,"gradient_norms":[],"skipped":0,"consecutive":0})"}) {
    EXPECT_THROW(guard.from_json(parse_json(text, "test"), "test"), Error) << text;
  }
}

}  // namespace
}  // namespace osp
