#include "osp/optim/muon.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/optim/config.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kMuonGroup{.name = "muon", .optimizer = &kMuonRow};

StepValues muon_values(int64_t step) {
  return {.step = step, .lr = 0.02, .momentum = 0.95, .weight_decay = 0.1, .measure = true};
}

// New gradients for every step.
void next_gradient(Bank& bank, int64_t step) {
  bank.gradient.copy_(random_tensor(bank.gradient.sizes().vec(), bank.name, step));
}

TEST(Muon, TenStepsEqualTheReferenceTwin) {
  for (const bool nesterov : {true, false}) {
    for (const int64_t bits : {32, 8}) {
      OptimConfig config;
      config.nesterov = nesterov;
      config.muon.momentum_bits = bits;
      std::vector<Bank> banks = {random_bank("wide", {3, 32, 88}),
                                 random_bank("tall", {2, 88, 32})};
      auto muon = kMuonRow.make({&banks[0], &banks[1]}, kMuonGroup, config);
      std::vector<at::Tensor> weights, buffers;
      std::vector<QuantizedMomentum> quantized;
      for (const Bank& bank : banks) {
        weights.push_back(bank.master.clone());
        buffers.push_back(at::zeros_like(bank.master));
        quantized.push_back(zero_quantized_momentum(bank.master));
      }
      const NewtonSchulz settings = newton_schulz_settings(config.muon.newton_schulz);
      for (int64_t step = 1; step <= 10; ++step) {
        for (size_t b = 0; b < banks.size(); ++b) {
          next_gradient(banks[b], step);
          for (int64_t i = 0; i < weights[b].size(0); ++i) {
            at::Tensor weight = weights[b][i], buffer = buffers[b][i];
            QuantizedMomentum momentum = quantized[b].select(i);
            const auto take_step = [&](auto& own) {
              muon_step_reference(weight, banks[b].gradient[i], own, muon_values(step), settings,
                                  0.2 * std::sqrt(88.0), nesterov);
            };
            if (bits == 8) {
              take_step(momentum);
            } else {
              take_step(buffer);
            }
          }
        }
        muon->step(muon_values(step));
      }
      for (size_t b = 0; b < banks.size(); ++b) {
        if (bits == 8) {
          EXPECT_TRUE(at::equal(muon->state()[2 * b].second, quantized[b].codes));
          EXPECT_TRUE(at::equal(muon->state()[2 * b + 1].second, quantized[b].scales));
        } else {
          // The buffer is fp32 on both sides; the compiler may fuse its multiplication
          // and addition.
          EXPECT_LT(norm_of(muon->state()[b].second - buffers[b]), 1e-6 * norm_of(buffers[b]));
        }
        // Each orthogonalised update agrees within 3 % (see newton_schulz_test); ten of them in
        // random directions have moved the weights by about 0.02 · 0.2 · sqrt(88 · 32 · 10) each.
        const double moved =
            norm_of(weights[b] - random_bank(banks[b].name, {weights[b].sizes().vec()}).master);
        EXPECT_LT(norm_of(banks[b].master - weights[b]), 0.03 * moved);
      }
    }
  }
}

// Trains W for 30 steps towards a target by gradients W − target + noise; returns W.
at::Tensor train_towards_target(int64_t bits) {
  Bank bank = random_bank("target", {2, 64, 96});
  const at::Tensor target = random_tensor({2, 64, 96}, "the target");
  auto muon = kMuonRow.make({&bank}, kMuonGroup, {.muon = {.momentum_bits = bits}});
  for (int64_t step = 1; step <= 30; ++step) {
    const at::Tensor noise = random_tensor({2, 64, 96}, "noise", uint64_t(step));
    bank.gradient.copy_(bank.master - target + noise);
    muon->step(muon_values(step));
  }
  return bank.master;
}

TEST(Muon, ThirtyStepsWithMomentumInEightBitsStayNearThoseInFp32) {
  const at::Tensor fp32 = train_towards_target(32), eight = train_towards_target(8);
  const at::Tensor start = random_bank("target", {2, 64, 96}).master;
  const double distance = norm_of(eight - fp32) / norm_of(fp32 - start);
  // Rounding errs by 0.7 % of the momentum a step and the buffer sums 1 / sqrt(1 - 0.95²) = 3.2 of
  // them up to about 2 %, in directions that differ from step to step (0.8 % of the way is seen).
  EXPECT_LT(distance, 0.02);
  EXPECT_GT(distance, 1e-4) << "the momentum was not rounded at all";
}

TEST(Muon, UpdateHasTheRmsOfAdam) {
  Bank bank = random_bank("rms", {4, 48, 128});
  const at::Tensor before = bank.master.clone();
  OptimConfig config;
  config.muon.newton_schulz.renormalize = true;
  auto muon = kMuonRow.make({&bank}, kMuonGroup, config);
  StepValues values = muon_values(1);
  values.weight_decay = 0;
  muon->step(values);
  // An orthogonal 48 x 128 factor has squared norm 48, so RMS = sqrt(1/128); times 0.2 sqrt(128).
  const double rms = norm_of(bank.master - before) / std::sqrt(4.0 * 48 * 128);
  EXPECT_NEAR(rms, 0.02 * 0.2, 1e-5) << "fp32 rounding of weights near 1";
  EXPECT_NEAR(muon->last_update_norm(), norm_of(bank.master - before), 1e-5);
}

TEST(Muon, DecayIsDecoupled) {
  Bank bank = random_bank("decay", {2, 16, 24});
  bank.gradient.zero_();
  const at::Tensor before = bank.master.clone();
  kMuonRow.make({&bank}, kMuonGroup, {})->step(muon_values(1));
  EXPECT_LT(norm_of(bank.master - before * (1 - 0.02 * 0.1)), 1e-6 * norm_of(before));
}

TEST(Muon, SameBitsForOneAndTwoThreads) {
  const int threads = at::get_num_threads();
  for (const int64_t bits : {32, 8}) {
    std::vector<at::Tensor> results;
    for (const int count : {1, 2}) {
      at::set_num_threads(count);
      Bank bank = random_bank("threads", {4, 64, 96});
      auto muon = kMuonRow.make({&bank}, kMuonGroup, {.muon = {.momentum_bits = bits}});
      for (int64_t step = 1; step <= 3; ++step) muon->step(muon_values(step));
      results.push_back(bank.master);
    }
    EXPECT_TRUE(at::equal(results[0], results[1])) << bits;
  }
  at::set_num_threads(threads);
}

TEST(Muon, HeadsAreOrthogonalisedOneByOne) {
  for (const int64_t bits : {32, 8}) {
    const OptimConfig config{.muon = {.momentum_bits = bits}};
    Bank whole = random_bank("heads", {2, 64, 50});
    Bank split = random_bank("heads", {8, 16, 50});
    split.master.copy_(whole.master.view({8, 16, 50}));
    split.gradient.copy_(whole.gradient.view({8, 16, 50}));
    OptimizerGroup group = kMuonGroup;
    group.split_rows = 16;
    const auto of_whole = kMuonRow.make({&whole}, group, config);
    const auto of_split = kMuonRow.make({&split}, kMuonGroup, config);
    for (int64_t step = 1; step <= 2; ++step) {
      of_whole->step(muon_values(step));
      of_split->step(muon_values(step));
    }
    EXPECT_TRUE(at::equal(whole.master.view({8, 16, 50}), split.master)) << bits;
  }
}

TEST(Muon, ResumesBitForBitAtEveryStep) {
  for (const int64_t bits : {32, 8}) {
    for (const int64_t split_rows : {0, 16}) {
      OptimizerGroup group = kMuonGroup;
      group.split_rows = split_rows;
      expect_bit_exact_resume({3, 32, 50}, [&](Bank& bank) {
        return kMuonRow.make({&bank}, group, {.muon = {.momentum_bits = bits}});
      });
    }
  }
}

TEST(Muon, UpdateScaleFollowsTheConfiguredRule) {
  const auto scale = [](const char* rule, int64_t rows, int64_t cols) {
    return kMuonRow.update_scale(rows, cols, kMuonGroup, {.muon = {.update_scale = rule}});
  };
  EXPECT_DOUBLE_EQ(scale("match-adam", 16, 100), 2.0);
  EXPECT_DOUBLE_EQ(scale("original", 100, 25), 2.0);
  EXPECT_DOUBLE_EQ(scale("original", 25, 100), 1.0);
  EXPECT_DOUBLE_EQ(scale("spectral", 25, 100), 0.5);
}

}  // namespace
}  // namespace osp
