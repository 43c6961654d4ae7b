#include "osp/optim/gain_rule.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include "osp/optim/config.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kGainGroup{.name = "gain", .optimizer = &kGainRow};

StepValues gain_values(int64_t step) {
  return {.step = step, .lr = 0.02, .momentum = 0.95, .weight_decay = 0.1, .measure = true};
}

TEST(GainRule, ScalarMovesByAFifthOfTheRateAndDecays) {
  Bank bank = random_bank("scalars", {5, 1, 1}, ParameterKind::gain);
  const at::Tensor before = bank.master.clone();
  auto rule = kGainRow.make({&bank}, kGainGroup, {});
  rule->step(gain_values(1));
  const at::Tensor expected = before * (1 - 0.02 * 0.1) - bank.gradient.sign() * (0.2 * 0.02);
  EXPECT_LT(norm_of(bank.master - expected), 1e-6) << "fp32, and eps 1e-8 beside gradients near 1";
  EXPECT_NEAR(rule->last_update_norm(), norm_of(expected - before), 1e-6);
}

TEST(GainRule, VectorMovesAFifthOfTheRatePerChannelInRms) {
  Bank bank = random_bank("vectors", {3, 1, 64}, ParameterKind::gain);
  const at::Tensor before = bank.master.clone();
  StepValues values = gain_values(1);
  values.weight_decay = 0;
  kGainRow.make({&bank}, kGainGroup, {})->step(values);
  for (int64_t i = 0; i < 3; ++i) {  // each gain by its own norm
    EXPECT_NEAR(norm_of(bank.master[i] - before[i]), 0.02 * 0.2 * 8, 1e-5);
  }
}

TEST(GainRule, MomentumOutlivesOneOppositeGradient) {
  Bank bank = random_bank("momentum", {1, 1, 1}, ParameterKind::gain);
  auto rule = kGainRow.make({&bank}, kGainGroup, {});
  const auto move = [&](double gradient) {
    const at::Tensor before = bank.master.clone();
    bank.gradient.fill_(gradient);
    StepValues values = gain_values(1);
    values.weight_decay = 0;
    rule->step(values);
    return (bank.master - before).item<double>();
  };
  EXPECT_LT(move(1.0), 0);
  EXPECT_LT(move(1.0), 0);   // buffer 1.95
  EXPECT_LT(move(-0.1), 0);  // buffer 1.7525, update −0.1 + 0.95 · 1.7525 > 0
  EXPECT_GT(move(-5.0), 0);
}

TEST(GainRule, OnlyNesterovLooksAheadByOneStepOfTheMomentum) {
  for (const bool nesterov : {true, false}) {
    Bank bank = random_bank("nesterov", {1, 1, 1}, ParameterKind::gain);
    auto rule = kGainRow.make({&bank}, kGainGroup, {.nesterov = nesterov});
    StepValues values = gain_values(1);
    values.weight_decay = 0;
    bank.gradient.fill_(1.0);
    rule->step(values);
    const double before = bank.master.item<double>();
    bank.gradient.fill_(-0.7);  // buffer 0.25; with Nesterov −0.7 + 0.95 · 0.25 < 0
    rule->step(values);
    const double moved = bank.master.item<double>() - before;
    EXPECT_NEAR(moved, (nesterov ? 1 : -1) * 0.2 * 0.02, 1e-6) << "fp32 weights near 1";
  }
}

TEST(GainRule, UpdateScaleIsThatOfAMatrixOfOneRow) {
  EXPECT_DOUBLE_EQ(kGainRow.update_scale(1, 25, kGainGroup, {}), 1.0);
}

TEST(GainRule, ResumesBitForBitAtEveryStep) {
  expect_bit_exact_resume({3, 1, 40},
                          [](Bank& bank) { return kGainRow.make({&bank}, kGainGroup, {}); });
}

}  // namespace
}  // namespace osp
