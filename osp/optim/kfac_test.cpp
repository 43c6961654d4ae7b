#include "osp/optim/kfac.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>

#include "osp/model/tap.h"
#include "osp/optim/config.h"
#include "osp/optim/decompositions.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kKfacGroup{.name = "kfac", .optimizer = &kKfacRow};

StepValues kfac_values(int64_t step) {
  return {.step = step, .lr = 0.01, .weight_decay = 0.1, .measure = true};
}

// A bank whose matrices are the linear layers first, first + 1, …
Bank layer_bank(const std::string& name, std::vector<int64_t> shape, int64_t first = 0) {
  Bank bank = random_bank(name, shape);
  for (int64_t i = 0; i < shape[0]; ++i) bank.members.push_back(first + i);
  return bank;
}

// Input and output gradient of one layer in a step.
struct Passage {
  at::Tensor x, dy;  // [tokens, in], [tokens, out]
};

constexpr int64_t kTokens = 40;

Passage random_passage(const Bank& bank, int64_t parameter, int64_t step) {
  const std::string name = fmt::format("layer {} ", parameter);
  return {random_tensor({kTokens, bank.master.size(2)}, name + "x", uint64_t(step)),
          random_tensor({kTokens, bank.master.size(1)}, name + "dy", uint64_t(step)) / kTokens};
}

// Sends random tokens through the layers of a bank in two micro-batches, as the model's passes do,
// and leaves the gradient in the bank.
void run_passes(Bank& bank, Tap& tap, int64_t step) {
  for (size_t i = 0; i < bank.members.size(); ++i) {
    const Passage whole = random_passage(bank, bank.members[i], step);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 15}, {15, kTokens - 15}}) {
      if (!tap.wants_linear()) break;
      tap.linear_input({&bank.members[i], 1}, whole.x.narrow(0, first, count));
      tap.linear_output_gradient(bank.members[i], whole.dy.narrow(0, first, count));
    }
    bank.gradient[int64_t(i)].copy_(at::matmul(whole.dy.t(), whole.x));
  }
}

// One step of an optimizer over one bank with everything that belongs to it.
void whole_step(Optimizer& optimizer, Bank& bank, int64_t step) {
  run_passes(bank, *optimizer.watch_step(), step);
  optimizer.step(kfac_values(step));
}

KfacMatrix zero_kfac_matrix(const at::Tensor& weight) {
  const auto square = [&](int64_t size) { return at::zeros({size, size}, weight.options()); };
  const int64_t out = weight.size(0), in = weight.size(1);
  return {at::zeros_like(weight), square(in), square(in), square(out), square(out)};
}

TEST(Kfac, ThirtyStepsEqualTheTwinForEveryShapeAndOption) {
  for (const OptimConfig& config : std::vector<OptimConfig>{
           {.precondition_every = 1},
           {.precondition_every = 7, .kfac = {.clip = 0}},
           {.precondition_every = 7, .kfac = {.damping = 1e-2, .clip = 0.1}}}) {
    std::vector<Bank> banks = {layer_bank("wide", {3, 12, 20}), layer_bank("tall", {2, 20, 9}, 3),
                               layer_bank("row", {1, 1, 15}, 5),
                               layer_bank("column", {1, 15, 1}, 6)};
    auto kfac = kKfacRow.make({&banks[0], &banks[1], &banks[2], &banks[3]}, kKfacGroup, config);
    std::vector<at::Tensor> weights, start;
    std::vector<KfacMatrix> twins;
    for (const Bank& bank : banks) {
      for (int64_t i = 0; i < bank.master.size(0); ++i) {
        weights.push_back(bank.master[i].to(at::kDouble));
        start.push_back(weights.back().clone());
        twins.push_back(zero_kfac_matrix(weights.back()));
      }
    }
    for (int64_t step = 1; step <= 30; ++step) {
      Tap* tap = kfac->watch_step();
      std::vector<at::Tensor> inputs, output_gradients, gradients;
      for (Bank& bank : banks) {
        run_passes(bank, *tap, step);
        for (size_t i = 0; i < bank.members.size(); ++i) {
          const Passage passage = random_passage(bank, bank.members[i], step);
          inputs.push_back(passage.x.to(at::kDouble));
          output_gradients.push_back(passage.dy.to(at::kDouble));
          gradients.push_back(bank.gradient[int64_t(i)].to(at::kDouble));
        }
      }
      kfac->step(kfac_values(step));
      kfac_step_reference(weights, gradients, inputs, output_gradients, twins, step,
                          kfac_values(step), config);
    }
    size_t layer = 0;
    for (const Bank& bank : banks) {
      for (int64_t i = 0; i < bank.master.size(0); ++i, ++layer) {
        // fp32 factors and inverses: 6e-8 times a condition of up to 1e3, some way below 1e-4.
        const double way = norm_of(weights[layer] - start[layer]);
        EXPECT_LT(norm_of(bank.master[i] - weights[layer]), 1e-4 * way) << bank.name;
      }
    }
    EXPECT_EQ(kfac->state()[2].second.item<int64_t>(), 0) << kfac->state()[2].first;
  }
}

TEST(Kfac, ALinearLayerWithWhiteInputsAndGradientsTakesAScaledGradientStep) {
  // With A and G multiples of I and no damping, p is a multiple of m̂.
  Bank bank = layer_bank("white", {1, 3, 4});
  auto kfac = kKfacRow.make({&bank}, kKfacGroup, {.kfac = {.damping = 0, .clip = 0}});
  Tap* tap = kfac->watch_step();
  const at::Tensor x = at::eye(4) * 4, dy = at::eye(3) / 3;  // A = 4 I, G = (4/9) I with N = 4
  tap->linear_input(bank.members, x);
  tap->linear_output_gradient(0, dy);
  StepValues values = kfac_values(1);
  values.weight_decay = 0;
  const at::Tensor before = bank.master.clone();
  kfac->step(values);
  const at::Tensor expected = before - bank.gradient * (0.01 / (4.0 * 4.0 / 9.0));
  EXPECT_LT(norm_of(bank.master - expected), 1e-6) << "fp32 rounding of weights near 1";
}

TEST(Kfac, LayersThatShareAnInputTakeTheStepsOfLayersThatDoNot) {
  Bank shared = layer_bank("shared", {3, 6, 40}), alone = layer_bank("shared", {3, 6, 40});
  auto together = kKfacRow.make({&shared}, kKfacGroup, {.precondition_every = 1});
  auto one_by_one = kKfacRow.make({&alone}, kKfacGroup, {.precondition_every = 1});
  for (int64_t step = 1; step <= 3; ++step) {
    const at::Tensor x = random_passage(shared, 0, step).x;
    Tap* tap = together->watch_step();
    Tap* other = one_by_one->watch_step();
    tap->linear_input(shared.members, x);
    for (const int64_t layer : alone.members) {
      other->linear_input({&layer, 1}, x);
      const at::Tensor dy = random_passage(alone, layer, step).dy;
      tap->linear_output_gradient(layer, dy);
      other->linear_output_gradient(layer, dy);
      for (Bank* bank : {&shared, &alone}) bank->gradient[layer].copy_(at::matmul(dy.t(), x));
    }
    together->step(kfac_values(step));
    one_by_one->step(kfac_values(step));
  }
  EXPECT_TRUE(at::equal(shared.master, alone.master));
}

TEST(Kfac, SixteenBitPassesGiveTheFactorsOfTheirWideCopies) {
  Bank bank = layer_bank("narrow", {1, 70, 40}), wide = layer_bank("narrow", {1, 70, 40});
  auto narrow_kfac = kKfacRow.make({&bank}, kKfacGroup, {});
  auto wide_kfac = kKfacRow.make({&wide}, kKfacGroup, {});
  const Passage passage = random_passage(bank, 0, 1);
  const at::Tensor x = passage.x.to(at::kBFloat16), dy = passage.dy.to(at::kBFloat16);
  Tap* const narrow_tap = narrow_kfac->watch_step();
  narrow_tap->linear_input(bank.members, x);
  narrow_tap->linear_output_gradient(0, dy);
  Tap* const wide_tap = wide_kfac->watch_step();
  wide_tap->linear_input(bank.members, x.to(at::kFloat));
  wide_tap->linear_output_gradient(0, dy.to(at::kFloat));
  narrow_kfac->step(kfac_values(1));
  wide_kfac->step(kfac_values(1));
  for (const char* name : {"input_factor", "output_factor"}) {
    const at::Tensor got = states_by_last_name(*narrow_kfac).at(name);
    const at::Tensor wanted = states_by_last_name(*wide_kfac).at(name);
    // Exact products; fp32 sums of 40 of them in another order.
    EXPECT_LT(norm_of(got - wanted), 1e-6 * norm_of(wanted)) << name;
    EXPECT_TRUE(at::equal(got, got.transpose(1, 2))) << name << " is symmetric";
  }
}

TEST(Kfac, TheClipBoundsThePredictedChange) {
  for (const double clip : {1e-4, 1e4}) {
    Bank bank = layer_bank("clip", {2, 6, 8});
    Bank free = layer_bank("clip", {2, 6, 8});
    auto clipped = kKfacRow.make({&bank}, kKfacGroup, {.kfac = {.clip = clip}});
    auto unclipped = kKfacRow.make({&free}, kKfacGroup, {.kfac = {.clip = 0}});
    const at::Tensor before = bank.master * (1 - 0.01 * 0.1);
    whole_step(*clipped, bank, 1);
    whole_step(*unclipped, free, 1);
    const at::Tensor step = (before - bank.master) / 0.01, full = (before - free.master) / 0.01;
    const double product = (full * bank.gradient).sum().item<double>();
    const double ratio = norm_of(step) / norm_of(full);
    // fp32 differences of weights near 1: 1e-7 of steps of 1e-3 and more.
    EXPECT_NEAR(ratio, std::min(1.0, std::sqrt(clip / product)), 1e-3);
  }
}

TEST(Kfac, GathersAndRestsAsAskedAndForgetsAStepWithoutAnUpdate) {
  Bank bank = layer_bank("gather", {2, 6, 8});
  auto kfac = kKfacRow.make({&bank}, kKfacGroup, {.kfac = {.gather_every = 3}});
  const auto states = states_by_last_name(*kfac);
  for (int64_t step = 1; step <= 4; ++step) {
    EXPECT_EQ(kfac->watch_step()->wants_linear(), step % 3 == 1);
    run_passes(bank, *kfac->watch_step(), 99);  // a step that the guard refuses
    const at::Tensor before = states.at("input_factor").clone();
    whole_step(*kfac, bank, step);
    EXPECT_EQ(at::equal(states.at("input_factor"), before), step % 3 != 1);
  }
  EXPECT_EQ(states.at("gathered").item<int64_t>(), 2);
  Bank undisturbed = layer_bank("gather", {2, 6, 8});
  auto other = kKfacRow.make({&undisturbed}, kKfacGroup, {.kfac = {.gather_every = 3}});
  for (int64_t step = 1; step <= 4; ++step) whole_step(*other, undisturbed, step);
  EXPECT_TRUE(at::equal(bank.master, undisturbed.master));
}

TEST(Kfac, AnInverseThatFailsIsNotTakenAndIsCounted) {
  Bank bank = layer_bank("failure", {2, 6, 8});
  auto kfac = kKfacRow.make({&bank}, kKfacGroup, {.precondition_every = 2});
  for (int64_t step = 1; step <= 2; ++step) whole_step(*kfac, bank, step);
  const auto states = states_by_last_name(*kfac);
  const at::Tensor before = states.at("output_inverse").clone();
  states.at("output_factor")[1].fill_(std::numeric_limits<double>::quiet_NaN());
  whole_step(*kfac, bank, 3);
  EXPECT_EQ(states.at("failures").item<int64_t>(), 1);
  EXPECT_FALSE(at::equal(states.at("output_inverse")[0], before[0]));
  EXPECT_TRUE(at::equal(states.at("output_inverse")[1], before[1]));
  EXPECT_TRUE(all_finite(bank.master));
}

TEST(Kfac, ResumesBitForBitAtEveryStep) {
  const auto make = [](Bank& bank) {
    bank.members = {0, 1, 2};
    return kKfacRow.make({&bank}, kKfacGroup,
                         {.precondition_every = 3, .kfac = {.gather_every = 2}});
  };
  expect_bit_exact_resume({3, 9, 11}, make, whole_step);
}

}  // namespace
}  // namespace osp
