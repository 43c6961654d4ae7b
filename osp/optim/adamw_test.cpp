#include "osp/optim/adamw.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "osp/optim/config.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kGroup{.name = "adam", .optimizer = &kAdamRow};

StepValues adam_values(int64_t step) {
  return {.step = step, .lr = 0.01, .weight_decay = 0.1, .measure = true};
}

TEST(AdamW, TwentyStepsEqualTheReferenceTwin) {
  Bank bank = random_bank("adam", {3, 17, 29});
  auto adam = kAdamRow.make({&bank}, kGroup, {});
  at::Tensor weight = bank.master.clone();
  at::Tensor mean = at::zeros_like(weight), square = at::zeros_like(weight);
  for (int64_t step = 1; step <= 20; ++step) {
    bank.gradient.copy_(random_tensor({3, 17, 29}, "adam", step));
    adamw_step_reference(weight, bank.gradient, mean, square, step, adam_values(step), {});
    const at::Tensor before = bank.master.clone();
    adam->step(adam_values(step));
    EXPECT_NEAR(adam->last_update_norm(), norm_of(bank.master - before), 1e-6);
  }
  // fp32: each step rounds weights near 1 by 6e-8; 20 steps of both sides stay below 2e-6.
  EXPECT_LT((bank.master - weight).abs().max().item<double>(), 2e-6);
}

TEST(AdamW, CountsItsOwnStepsExactlyBeyondBf16AndFp32) {
  Bank bank = random_bank("count", {1, 2, 2});
  auto adam = kAdamRow.make({&bank}, kGroup, {});
  adam->state()[0].second.fill_((int64_t{1} << 24) + 1);
  adam->step(adam_values(7));  // the trainer's step number does not matter
  adam->step(adam_values(7));
  EXPECT_EQ(adam->state()[0].second.item<int64_t>(), (int64_t{1} << 24) + 3);
}

TEST(AdamW, ResumesBitForBitAtEveryStep) {
  Bank through = random_bank("resume", {3, 9, 11});
  auto adam = kAdamRow.make({&through}, kGroup, {});
  for (int64_t step = 1; step <= 6; ++step) {
    Bank resumed = random_bank("resume", {3, 9, 11});
    resumed.master.copy_(through.master);
    auto other = kAdamRow.make({&resumed}, kGroup, {});
    for (size_t i = 0; i < adam->state().size(); ++i) {
      EXPECT_EQ(other->state()[i].first, adam->state()[i].first);
      other->state()[i].second.copy_(adam->state()[i].second.clone());
    }
    for (Bank* bank : {&through, &resumed}) {
      bank->gradient.copy_(random_tensor({3, 9, 11}, "resume", step));
    }
    adam->step(adam_values(step));
    other->step(adam_values(step));
    EXPECT_TRUE(at::equal(through.master, resumed.master)) << step;
  }
}

TEST(AdamW, SameBitsForOneAndTwoThreads) {
  const int threads = at::get_num_threads();
  std::vector<at::Tensor> results;
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    Bank bank = random_bank("threads", {3, 1000, 37});
    auto adam = kAdamRow.make({&bank}, kGroup, {});
    for (int64_t step = 1; step <= 3; ++step) adam->step(adam_values(step));
    results.push_back(bank.master);
  }
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(results[0], results[1]));
}

}  // namespace
}  // namespace osp
