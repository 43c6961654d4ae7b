#include "osp/optim/shampoo.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "osp/optim/adamw.h"
#include "osp/optim/config.h"
#include "osp/optim/decompositions.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kShampooGroup{.name = "shampoo", .optimizer = &kShampooRow};

StepValues shampoo_values(int64_t step) {
  return {.step = step, .lr = 0.01, .weight_decay = 0.1, .measure = true};
}

TEST(Shampoo, ThirtyStepsEqualTheTwinForEveryShapeInBlocksAndWhole) {
  for (const int64_t block : {1024, 8}) {
    const OptimConfig config{.precondition_every = 5, .shampoo = {.block = block}};
    for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{
             {3, 12, 20}, {2, 20, 9}, {2, 1, 19}, {2, 19, 1}, {2, 1, 1}}) {
      Bank bank = random_bank("shampoo", shape);
      auto shampoo = kShampooRow.make({&bank}, kShampooGroup, config);
      const at::Tensor start = bank.master.clone();
      std::vector<at::Tensor> weights;
      std::vector<ShampooMatrix> twins;
      for (int64_t i = 0; i < shape[0]; ++i) {
        weights.push_back(bank.master[i].to(at::kDouble));
        twins.push_back(make_shampoo_matrix(weights.back(), config));
      }
      for (int64_t step = 1; step <= 30; ++step) {
        bank.gradient.copy_(random_tensor(shape, "shampoo", step));
        const at::Tensor before = bank.master.clone();
        shampoo->step(shampoo_values(step));
        const double moved = norm_of(bank.master - before);
        EXPECT_NEAR(shampoo->last_update_norm(), moved, 1e-5 * moved);
        for (size_t i = 0; i < twins.size(); ++i) {
          const at::Tensor gradient = bank.gradient[int64_t(i)].to(at::kDouble);
          shampoo_step_reference(weights[i], gradient, twins[i], shampoo_values(step), config);
        }
      }
      for (size_t i = 0; i < twins.size(); ++i) {
        // fp32 rounds weights near 1 by 6e-8 a step, against steps of 0.01; the roots of the
        // smallest eigenvalues add as much.
        const double way = norm_of(weights[i] - start[int64_t(i)]);
        EXPECT_LT(norm_of(bank.master[int64_t(i)] - weights[i]), 3e-5 * way)
            << shape[1] << " x " << shape[2] << " in blocks of " << block;
      }
      EXPECT_EQ(states_by_last_name(*shampoo).at("failures").item<int64_t>(), 0);
    }
  }
}

TEST(Shampoo, IsAdamBeforeTheFirstRootsAndAsLongAfterwards) {
  Bank bank = random_bank("graft", {2, 6, 8}), plain = random_bank("graft", {2, 6, 8});
  auto shampoo = kShampooRow.make({&bank}, kShampooGroup, {.precondition_every = 4});
  auto adam = kAdamRow.make({&plain}, {.name = "adam"}, {});
  StepValues values = shampoo_values(1);
  values.weight_decay = 0;
  for (int64_t step = 1; step <= 8; ++step) {
    for (Bank* each : {&bank, &plain}) {
      each->gradient.copy_(random_tensor({2, 6, 8}, "graft", step));
    }
    shampoo->step(values);
    adam->step(values);
    // fp32 roundings of weights near 1, of steps of 0.07.
    EXPECT_NEAR(shampoo->last_update_norm(), adam->last_update_norm(), 1e-5);
    const double apart = norm_of(bank.master - plain.master);
    EXPECT_EQ(apart < 1e-5, step < 4) << step << ": " << apart;
  }
}

TEST(Shampoo, ARootThatFailsIsNotTakenAndIsCounted) {
  Bank bank = random_bank("failure", {2, 6, 8});
  auto shampoo = kShampooRow.make({&bank}, kShampooGroup, {.precondition_every = 2});
  for (int64_t step = 1; step <= 3; ++step) shampoo->step(shampoo_values(step));
  const auto states = states_by_last_name(*shampoo);
  const at::Tensor before = states.at("left_root").clone();
  states.at("left_factor")[1].fill_(std::numeric_limits<double>::quiet_NaN());
  bank.gradient.mul_(2);
  shampoo->step(shampoo_values(4));
  EXPECT_EQ(states.at("failures").item<int64_t>(), 1);
  EXPECT_FALSE(at::equal(states.at("left_root")[0], before[0]));
  EXPECT_TRUE(at::equal(states.at("left_root")[1], before[1]));
  EXPECT_TRUE(all_finite(bank.master));
}

TEST(Shampoo, ZeroGradientsOnlyDecay) {
  Bank bank = random_bank("zero", {2, 5, 7});
  bank.gradient.zero_();
  const at::Tensor before = bank.master.clone();
  auto shampoo = kShampooRow.make({&bank}, kShampooGroup, {.precondition_every = 1});
  shampoo->step(shampoo_values(1));
  EXPECT_LT(norm_of(bank.master - before * (1 - 0.01 * 0.1)), 1e-6 * norm_of(before));
}

TEST(Shampoo, ResumesBitForBitAtEveryStep) {
  expect_bit_exact_resume({3, 9, 11}, [](Bank& bank) {
    return kShampooRow.make({&bank}, kShampooGroup,
                            {.precondition_every = 3, .shampoo = {.block = 4}});
  });
}

}  // namespace
}  // namespace osp
