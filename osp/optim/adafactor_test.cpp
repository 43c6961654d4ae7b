#include "osp/optim/adafactor.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/optim/config.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kAdafactorGroup{.name = "adafactor", .optimizer = &kAdafactorRow};

StepValues adafactor_values(int64_t step) {
  return {.step = step, .lr = 0.01, .weight_decay = 0.1, .measure = true};
}

// The twin in fp64 beside every matrix of a bank.
struct AdafactorTwins {
  std::vector<at::Tensor> weights;
  std::vector<AdafactorMoments> moments;

  explicit AdafactorTwins(const Bank& bank) {
    const at::TensorOptions fp64 = at::TensorOptions().dtype(at::kDouble);
    for (int64_t i = 0; i < bank.master.size(0); ++i) {
      weights.push_back(bank.master[i].to(at::kDouble));
      const int64_t rows = weights[i].size(0), cols = weights[i].size(1);
      moments.push_back(
          {at::zeros({rows}, fp64), at::zeros({cols}, fp64), at::zeros({rows, cols}, fp64)});
    }
  }

  void step(const at::Tensor& gradients, int64_t t, const OptimConfig& config) {
    for (size_t i = 0; i < weights.size(); ++i) {
      const at::Tensor gradient = gradients[int64_t(i)].to(at::kDouble);
      adafactor_step_reference(weights[i], gradient, moments[i], t, adafactor_values(t), config);
    }
  }
};

TEST(Adafactor, TwentyStepsEqualTheTwinForEveryShapeAndOption) {
  const std::vector<OptimConfig> configs = {{},
                                            {.adafactor = {.momentum = 0.9}},
                                            {.adafactor = {.clip = 0.5}},
                                            {.adafactor = {.relative_step = true}}};
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{3, 17, 29}, {2, 1, 31}, {2, 31, 1}, {4, 1, 1}}) {
    for (const OptimConfig& config : configs) {
      Bank bank = random_bank("adafactor", shape);
      AdafactorTwins twins(bank);
      auto adafactor = kAdafactorRow.make({&bank}, kAdafactorGroup, config);
      for (int64_t t = 1; t <= 20; ++t) {
        bank.gradient.copy_(random_tensor(shape, "adafactor", t));
        const at::Tensor before = bank.master.clone();
        adafactor->step(adafactor_values(t));
        twins.step(bank.gradient, t, config);
        const double moved = norm_of(bank.master - before);
        EXPECT_NEAR(adafactor->last_update_norm(), moved, 1e-5 * moved);
      }
      for (int64_t i = 0; i < shape[0]; ++i) {
        // fp32: each step rounds weights near 1 by 6e-8 and an update of 0.01 by a few 1e-7 of it.
        EXPECT_LT((bank.master[i] - twins.weights[i]).abs().max().item<double>(), 4e-6);
      }
    }
  }
}

TEST(Adafactor, ABankOfSeveralSlicesEqualsTheTwin) {
  Bank bank = random_bank("slices", {3, 600, 700});
  AdafactorTwins twins(bank);
  auto adafactor = kAdafactorRow.make({&bank}, kAdafactorGroup, {});
  for (int64_t t = 1; t <= 3; ++t) {
    adafactor->step(adafactor_values(t));
    twins.step(bank.gradient, t, {});
  }
  for (int64_t i = 0; i < 3; ++i) {
    // As above.
    EXPECT_LT((bank.master[i] - twins.weights[i]).abs().max().item<double>(), 2e-6);
  }
}

TEST(Adafactor, AVectorHasAPlainSecondMoment) {
  Bank bank = random_bank("vector", {2, 1, 40}, ParameterKind::gain);
  at::Tensor weight = bank.master.clone(), square = at::zeros({2, 1, 40});
  auto adafactor = kAdafactorRow.make({&bank}, kAdafactorGroup, {.adafactor = {.clip = 1e6}});
  for (int64_t t = 1; t <= 10; ++t) {
    bank.gradient.copy_(random_tensor({2, 1, 40}, "vector", t));
    adafactor->step(adafactor_values(t));
    square.lerp_(bank.gradient.square(), std::pow(double(t), -0.8));
    weight.mul_(1 - 0.01 * 0.1).sub_(bank.gradient / square.sqrt() * 0.01);
  }
  // fp32 roundings of weights near 1.
  EXPECT_LT((bank.master - weight).abs().max().item<double>(), 2e-6);
}

TEST(Adafactor, AnUpdateHasAtMostTheRmsOfTheThreshold) {
  Bank bank = random_bank("clip", {2, 24, 40});
  auto adafactor = kAdafactorRow.make({&bank}, kAdafactorGroup, {});
  StepValues values = adafactor_values(1);
  values.weight_decay = 0;
  for (int64_t t = 1; t <= 3; ++t) {
    bank.gradient.mul_(1000);  // far beyond what the moments expect
    const at::Tensor before = bank.master.clone();
    adafactor->step(values);
    for (int64_t i = 0; i < 2; ++i) {
      const double rms = norm_of(bank.master[i] - before[i]) / std::sqrt(24.0 * 40.0);
      EXPECT_LT(rms, 0.01 * (1 + 1e-4)) << "fp32 rounding of weights near 1";
    }
  }
}

TEST(Adafactor, ZeroGradientsOnlyDecay) {
  Bank bank = random_bank("zero", {2, 5, 7});
  bank.gradient.zero_();
  const at::Tensor before = bank.master.clone();
  kAdafactorRow.make({&bank}, kAdafactorGroup, {})->step(adafactor_values(1));
  EXPECT_LT(norm_of(bank.master - before * (1 - 0.01 * 0.1)), 1e-6 * norm_of(before));
}

TEST(Adafactor, ResumesBitForBitAtEveryStep) {
  expect_bit_exact_resume({3, 9, 11}, [](Bank& bank) {
    return kAdafactorRow.make({&bank}, kAdafactorGroup, {.adafactor = {.momentum = 0.9}});
  });
}

}  // namespace
}  // namespace osp
