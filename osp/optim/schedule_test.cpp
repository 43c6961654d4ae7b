#include "osp/optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "osp/base/error.h"

namespace osp {
namespace {

// Values are short closed forms in double; 1e-15 allows their last bit to differ.
constexpr double kLastBit = 1e-15;

TEST(Schedule, WarmUpIsLinearAndReachesThePeak) {
  const ScheduleConfig schedule{.kind = "constant", .warmup_steps = 4};
  for (int64_t step = 1; step <= 4; ++step) {
    EXPECT_NEAR(lr_factor(schedule, step, 100), 0.25 * static_cast<double>(step), kLastBit);
  }
  EXPECT_EQ(lr_factor(schedule, 5, 100), 1);
  EXPECT_EQ(lr_factor(schedule, 100, 100), 1);
}

TEST(Schedule, LinearFallsFromWarmUpToTheEnd) {
  const ScheduleConfig schedule{.kind = "linear", .warmup_steps = 10, .final_lr = 0.1};
  EXPECT_EQ(lr_factor(schedule, 11, 110), 1);
  EXPECT_NEAR(lr_factor(schedule, 61, 110), 0.55, kLastBit);
  EXPECT_NEAR(lr_factor(schedule, 110, 110), 0.1 + 0.9 * 0.01, kLastBit);
}

TEST(Schedule, CosineIsHalfwayDownInTheMiddle) {
  const ScheduleConfig schedule{.kind = "cosine", .warmup_steps = 0, .final_lr = 0.2};
  EXPECT_EQ(lr_factor(schedule, 1, 100), 1);
  EXPECT_NEAR(lr_factor(schedule, 51, 100), 0.6, kLastBit);
  EXPECT_NEAR(lr_factor(schedule, 26, 100), 0.2 + 0.4 * (1 + std::cos(std::numbers::pi / 4)),
              kLastBit);
}

TEST(Schedule, WsdHasThreePhases) {
  ScheduleConfig schedule{.kind = "wsd", .warmup_steps = 10, .decay_fraction = 0.2};
  EXPECT_NEAR(lr_factor(schedule, 5, 100), 0.5, kLastBit);
  EXPECT_EQ(lr_factor(schedule, 11, 100), 1);
  EXPECT_EQ(lr_factor(schedule, 80, 100), 1);
  EXPECT_EQ(lr_factor(schedule, 81, 100), 1);  // the first step of the decay has t = 0
  EXPECT_NEAR(lr_factor(schedule, 91, 100), 0.5, kLastBit);
  EXPECT_NEAR(lr_factor(schedule, 100, 100), 0.05, kLastBit);
  schedule.decay_shape = "cosine";
  EXPECT_NEAR(lr_factor(schedule, 86, 100), 0.5 * (1 + std::cos(std::numbers::pi / 4)), kLastBit);
  schedule.decay_shape = "1-sqrt";
  EXPECT_NEAR(lr_factor(schedule, 86, 100), 0.5, kLastBit);
  schedule.decay_steps = 40;  // wins over the fraction
  EXPECT_EQ(lr_factor(schedule, 61, 100), 1);
  EXPECT_NEAR(lr_factor(schedule, 71, 100), 0.5, kLastBit);
}

TEST(Schedule, MomentumWarmsUp) {
  const ScheduleConfig schedule{.momentum_start = 0.85, .momentum_warmup_steps = 10};
  EXPECT_NEAR(scheduled_momentum(schedule, 0.95, 1), 0.85, kLastBit);
  EXPECT_NEAR(scheduled_momentum(schedule, 0.95, 6), 0.90, kLastBit);
  EXPECT_EQ(scheduled_momentum(schedule, 0.95, 11), 0.95);
  EXPECT_EQ(scheduled_momentum(ScheduleConfig{}, 0.95, 1), 0.95);
}

TEST(Schedule, WeightDecayFallsOverTheWholeRun) {
  ScheduleConfig schedule{.weight_decay_kind = "linear", .weight_decay_final = 0.5};
  EXPECT_EQ(weight_decay_factor(schedule, 1, 10), 1);
  EXPECT_NEAR(weight_decay_factor(schedule, 6, 10), 0.75, kLastBit);
  schedule.weight_decay_kind = "constant";
  EXPECT_EQ(weight_decay_factor(schedule, 6, 10), 1);
}

TEST(Schedule, StepValuesCarryTheGroupsScaleAndDecay) {
  const OptimConfig optim{.lr = 0.1, .weight_decay = 0.01, .momentum = 0.9};
  const ScheduleConfig schedule{.kind = "constant", .warmup_steps = 2};
  const OptimizerGroup group{.lr_scale = 3, .decays = true};
  const StepValues values = step_values(optim, schedule, group, 1, 10);
  EXPECT_EQ(values.step, 1);
  EXPECT_NEAR(values.lr, 0.15, kLastBit);
  EXPECT_EQ(values.momentum, 0.9);
  EXPECT_EQ(values.weight_decay, 0.01);
  EXPECT_EQ(step_values(optim, schedule, OptimizerGroup{.decays = false}, 1, 10).weight_decay, 0);
}

TEST(Schedule, RefusesPhasesThatDoNotFit) {
  EXPECT_NO_THROW(check_schedule({.kind = "wsd", .warmup_steps = 80, .decay_fraction = 0.2}, 100));
  EXPECT_THROW(check_schedule({.kind = "wsd", .warmup_steps = 81, .decay_fraction = 0.2}, 100),
               Error);
  EXPECT_THROW(check_schedule({.kind = "cosine", .warmup_steps = 101}, 100), Error);
}

}  // namespace
}  // namespace osp
