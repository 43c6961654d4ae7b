// The training step: micro-batches, the guard's branch, norms, determinism.
#include "osp/train/step.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "osp/base/test_error.h"
#include "osp/optim/optimizers.h"
#include "osp/optim/schedule.h"
#include "osp/quant/fake_quant.h"
#include "osp/train/test_run.h"
#include "osp/train/validation.h"

namespace osp {
namespace {

struct Step : ::testing::Test {
  TestFolder folder;
  std::string shards = folder / "tokens";
  void SetUp() override { write_test_shards(shards); }
  TokenDataset data() { return TokenDataset::open(shards, "train"); }
};

// Copies of all weights and optimizer states.
std::vector<at::Tensor> contents(const TrainState& state) {
  std::vector<at::Tensor> tensors;
  for (const Bank& bank : state.store.banks) tensors.push_back(bank.master.clone());
  for (const auto& optimizer : state.optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) tensors.push_back(tensor.clone());
  }
  return tensors;
}

void expect_equal(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i], b[i])) << "tensor " << i;
}

TEST_F(Step, TheResultDoesNotDependOnTheMicroBatchBeyondRounding) {
  const TokenDataset tokens = data();
  for (const bool document_mask : {false, true}) {
    std::vector<at::Tensor> whole;
    double whole_loss = 0;
    for (const int64_t micro : {4, 1, 3}) {
      Recipe recipe = resolved_test_recipe(shards);
      recipe.data.document_mask = document_mask;
      recipe.optim.clip_adam = 0;
      recipe.train.micro_batch_sequences = micro;
      const auto state = make_state(recipe);
      const double loss = train_step(*state, tokens, false).loss;
      if (whole.empty()) {
        for (const Bank& bank : state->store.banks) whole.push_back(bank.gradient.clone());
        whole_loss = loss;
        continue;
      }
      // Sums of 64 fp32 terms in another order: a few units of 6e-8 in the loss; in a gradient bank
      // relative to its norm, with room for cancellation.
      EXPECT_NEAR(loss, whole_loss, 1e-6 * whole_loss);
      for (size_t b = 0; b < whole.size(); ++b) {
        const double norm = gradient_norm({whole[b]});
        const double difference = gradient_norm({state->store.banks[b].gradient - whole[b]});
        EXPECT_LE(difference, 1e-5 * norm + 1e-9) << state->store.banks[b].name << " " << micro;
        EXPECT_GT(norm, 0) << state->store.banks[b].name;
      }
    }
  }
}

// Blocks that are computed twice, under everything that may look into them.
TEST_F(Step, BlocksThatAreComputedAgainGiveTheSameBits) {
  const TokenDataset tokens = data();
  std::vector<Recipe> recipes;
  for (const char* optimizer : {"osp", "kfac"}) {
    recipes.push_back(test_recipe(shards, optimizer));
    recipes.back().model.layers = 3;
  }
  recipes.push_back(outlier_protected(recipes[0]));
  recipes.push_back(recipes[0]);
  recipes.back().train.precision = "bf16";
  recipes.back().data.document_mask = true;
  recipes.back().qat.bits = "4-4-4";
  for (size_t i = 0; i < recipes.size(); ++i) {
    std::vector<at::Tensor> kept;
    for (const bool again : {false, true}) {
      Recipe recipe = recipes[i];
      recipe.train.recompute_blocks = again;
      recipe.train.micro_batch_sequences = 3;
      const auto state = make_state(resolved_recipe(recipe, 64));
      for (int step = 0; step < 3; ++step) train_step(*state, tokens, false);
      if (again) {
        SCOPED_TRACE(i);
        expect_equal(contents(*state), kept);
      }
      kept = contents(*state);
    }
  }
}

// Muon orthogonalises the sum of the micro-batches, not each of them: the new weights do not depend
// on how the step is cut, but for what bf16 iterations make of fp32 sums in another order.
TEST_F(Step, TheUpdateIsThatOfTheWholeStep) {
  const TokenDataset tokens = data();
  std::vector<at::Tensor> updates[2];
  for (const int64_t micro : {4, 1}) {
    Recipe recipe = resolved_test_recipe(shards);
    recipe.train.micro_batch_sequences = micro;
    const auto state = make_state(recipe);
    std::vector<at::Tensor> before;
    for (const Bank& bank : state->store.banks) before.push_back(bank.master.clone());
    train_step(*state, tokens, false);
    for (size_t b = 0; b < before.size(); ++b) {
      updates[micro == 1].push_back(state->store.banks[b].master - before[b]);
    }
  }
  for (size_t b = 0; b < updates[0].size(); ++b) {
    EXPECT_LT(gradient_norm({updates[1][b] - updates[0][b]}), 0.02 * gradient_norm({updates[0][b]}))
        << b;
  }
}

// The kind: a step that learns from nothing must change nothing, whatever momentum there is.
TEST_F(Step, ABatchThatScoresNothingTouchesNeitherWeightsNorStateNorTheGuardsWindow) {
  const std::string one_document = folder / "padding";
  ShardSetWriter writer(one_document, {.vocabulary = 64, .end_of_document = 0});
  for (const char* split : {"train", "validation"}) {
    writer.append(split, std::vector<int32_t>(200, 0), 200);
  }
  writer.commit();
  const TokenDataset tokens = data(), padding = TokenDataset::open(one_document, "train");
  for (const std::string& optimizer : recipe_optimizer_names()) {
    Recipe recipe = test_recipe(shards, optimizer);
    recipe.data.document_mask = true;
    const auto state = make_state(resolved_recipe(recipe, 64));
    train_step(*state, tokens, false);  // momentum of a real step
    const std::vector<at::Tensor> before = contents(*state);
    const size_t window = state->guard.window_size();
    const StepReport report = train_step(*state, padding, true);
    EXPECT_NE(report.skipped, "") << optimizer;
    expect_equal(contents(*state), before);
    EXPECT_EQ(state->guard.window_size(), window);
    EXPECT_EQ(state->guard.consecutive(), 0);
    EXPECT_EQ(state->step, 2);
  }
}

// The kind: weights that nobody looks at.
TEST_F(Step, AnUpdateThatIsNotFiniteEndsTheRunAtThatStep) {
  const TokenDataset tokens = data();
  for (const bool measure : {false, true}) {
    for (const std::string& optimizer : recipe_optimizer_names()) {
      Recipe recipe = resolved_test_recipe(shards, optimizer);
      recipe.schedule.warmup_steps = 0;
      recipe.optim.lr = 1e39;  // beyond fp32: every update that moves at all is infinite
      recipe.optim.gain_lr_scale = 0;
      const auto state = make_state(recipe);
      std::string message;
      for (int i = 0; i < 3 && message.empty(); ++i) {  // SOAP's first step only looks
        try {
          train_step(*state, tokens, measure);
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::diverged);
          message = error.what();
        }
      }
      EXPECT_NE(message.find("is not finite"), std::string::npos) << optimizer << ": " << message;
    }
  }
}

TEST_F(Step, WhatIsNotFiniteIsNamedBeforeItIsSaved) {
  const auto state = make_state(resolved_test_recipe(shards));
  EXPECT_EQ(first_not_finite(*state), "");
  for (const auto& optimizer : state->optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) {
      if (!at::isFloatingType(tensor.scalar_type())) continue;
      const at::Tensor kept = tensor.clone();
      tensor.flatten()[0].fill_(std::numeric_limits<double>::infinity());
      EXPECT_EQ(first_not_finite(*state), name);
      tensor.copy_(kept);
    }
  }
  Bank& bank = state->store.banks.front();
  bank.master.flatten()[0].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(first_not_finite(*state), bank.name);
}

// With a gradient of zero and no momentum every decayed weight shrinks by exactly its share: decay
// reaches all of them, whatever the optimizer.
TEST_F(Step, WithNothingToLearnEveryWeightOnlyDecays) {
  // Steps every group with the gradient as it is: zero.
  const auto step_optimizers = [](TrainState& state, int64_t step) {
    for (size_t g = 0; g < state.optimizers.size(); ++g) {
      state.optimizers[g]->step(step_values(state.recipe.optim, state.recipe.schedule,
                                            state.routing.groups[g], step,
                                            state.recipe.train.steps));
    }
  };
  for (const std::string& optimizer : recipe_optimizer_names()) {
    Recipe recipe = test_recipe(shards, optimizer);
    recipe.optim.weight_decay = 0.1;
    recipe.optim.lr = 0.5;
    recipe.optim.muon_lr_scale = recipe.optim.adam_lr_scale = 1;
    recipe.schedule.warmup_steps = 0;
    const auto state = make_state(resolved_recipe(recipe, 64));
    // SOAP spends its first step on its bases.
    if (optimizer == "soap") step_optimizers(*state, 1);
    std::vector<at::Tensor> before;
    for (const Bank& bank : state->store.banks) before.push_back(bank.master.clone());
    step_optimizers(*state, 2);
    int64_t decayed = 0;
    for (size_t b = 0; b < before.size(); ++b) {
      const Bank& bank = state->store.banks[b];
      if (bank.kind == ParameterKind::gain) continue;
      ++decayed;
      EXPECT_TRUE(at::allclose(bank.master, before[b] * (1 - 0.5 * 0.1), 1e-6, 1e-8))
          << optimizer << " " << bank.name;
    }
    EXPECT_GT(decayed, 2);
  }
}

TEST_F(Step, OneTokenIsABatch) {
  const TokenDataset tokens = data();
  for (const char* precision : {"fp32", "bf16"}) {
    Recipe recipe = test_recipe(shards);
    recipe.model.context = recipe.train.batch_tokens = 1;
    recipe.train.precision = precision;
    const auto state = make_state(resolved_recipe(recipe, 64));
    for (int i = 0; i < 3; ++i) {
      const StepReport report = train_step(*state, tokens, false);
      EXPECT_NEAR(report.loss, std::log(64.0), 0.5) << precision;
      EXPECT_GT(report.gradient_norm, 0);
    }
  }
}

TEST_F(Step, TheGradientIsThatOfThisStepAlone) {
  const TokenDataset tokens = data();
  Recipe recipe = resolved_test_recipe(shards);
  recipe.optim.lr = 0;
  const auto two_steps = make_state(recipe);
  train_step(*two_steps, tokens, false);
  const StepReport second = train_step(*two_steps, tokens, false);
  const auto one_step = make_state(recipe);
  one_step->step = 1;
  EXPECT_EQ(train_step(*one_step, tokens, false).gradient_norms, second.gradient_norms);
}

TEST_F(Step, ANanReachesNeitherWeightsNorOptimizerState) {
  const TokenDataset tokens = data();
  for (const std::string& optimizer : recipe_optimizer_names()) {
    const auto state = make_state(resolved_test_recipe(shards, optimizer));
    train_step(*state, tokens, false);
    const int64_t poisoned = state->store.find("model.layers.0.mlp.up_proj.weight");
    const at::Tensor healthy = state->store.master(poisoned).clone();
    const std::vector<at::Tensor> before = contents(*state);
    state->store.master(poisoned).select(0, 0).fill_(std::numeric_limits<float>::quiet_NaN());
    sync_compute(state->store);
    const StepReport report = train_step(*state, tokens, true);
    EXPECT_NE(report.skipped, "");
    EXPECT_EQ(report.update_norms, std::vector<double>(state->routing.groups.size(), 0.0));
    EXPECT_EQ(state->guard.skipped(), 1);
    EXPECT_EQ(state->step, 2) << "a skipped step counts";
    state->store.master(poisoned).copy_(healthy);
    sync_compute(state->store);
    expect_equal(contents(*state), before);
    EXPECT_EQ(train_step(*state, tokens, false).skipped, "");
    for (const at::Tensor& tensor : contents(*state)) {
      EXPECT_TRUE(at::isfinite(tensor).all().item<bool>());
    }
  }
}

TEST_F(Step, TheSameSeedGivesTheSameBitsAndAnotherDoesNot) {
  const TokenDataset tokens = data();
  std::vector<std::vector<at::Tensor>> results;
  for (const int64_t seed : {1, 1, 2}) {
    Recipe recipe = resolved_test_recipe(shards);
    recipe.run.seed = seed;
    const auto state = make_state(recipe);
    for (int i = 0; i < 4; ++i) train_step(*state, tokens, i % 2 == 0);
    results.push_back(contents(*state));
  }
  expect_equal(results[0], results[1]);
  EXPECT_FALSE(at::equal(results[0][0], results[2][0]));
}

TEST_F(Step, MeasuringChangesNothing) {
  const TokenDataset tokens = data();
  std::vector<std::vector<at::Tensor>> results;
  for (const bool measure : {false, true}) {
    const auto state = make_state(resolved_test_recipe(shards));
    const StepReport report = train_step(*state, tokens, measure);
    EXPECT_EQ(report.update_norms.size(), measure ? state->routing.groups.size() : 0u);
    for (const double norm : report.update_norms) EXPECT_GT(norm, 0);
    results.push_back(contents(*state));
  }
  expect_equal(results[0], results[1]);
}

TEST_F(Step, TheReportHasTheScheduledRateWithoutTheScaleOfAnyGroup) {
  const TokenDataset tokens = data();
  Recipe recipe = test_recipe(shards);
  recipe.optim.lr = 0.5;
  recipe.optim.adam_lr_scale = recipe.optim.muon_lr_scale = recipe.optim.gain_lr_scale = 0.25;
  recipe.optim.decay_adam = recipe.optim.decay_muon = recipe.optim.decay_gain = false;
  const auto state = make_state(resolved_recipe(recipe, 64));
  for (const double lr : {0.25, 0.5, 0.5}) {  // two steps of warm-up
    const StepReport report = train_step(*state, tokens, false);
    EXPECT_EQ(report.values.lr, lr);
    EXPECT_EQ(report.values.weight_decay, recipe.optim.weight_decay);
  }
}

TEST_F(Step, TheLossFalls) {
  const TokenDataset tokens = data();
  for (const std::string& optimizer : recipe_optimizer_names()) {
    Recipe recipe = resolved_test_recipe(shards, optimizer);
    recipe.optim.lr = 0.01;
    recipe.train.steps = 60;
    const auto state = make_state(recipe);
    const double first = train_step(*state, tokens, false).loss;
    double last = first;
    for (int i = 0; i < 59; ++i) last = train_step(*state, tokens, false).loss;
    EXPECT_NEAR(first, std::log(64.0), 0.2) << "nothing is known at the start";
    EXPECT_LT(last, first - 0.3) << optimizer;
  }
}

TEST_F(Step, TheLossOfAnOutlierProtectedModelFallsAndItsScalarsMove) {
  const TokenDataset tokens = data();
  for (const char* optimizer : {"adam", "osp"}) {
    Recipe recipe = resolved_recipe(outlier_protected(test_recipe(shards, optimizer)), 64);
    recipe.optim.lr = 0.01;
    recipe.train.steps = 60;
    const auto state = make_state(recipe);
    const int64_t scale = state->store.find("model.layers.0.mlp.branch_scale");
    const double scale_first = state->store.master(scale).item<double>();
    const double first = train_step(*state, tokens, false).loss;
    double last = first;
    for (int i = 0; i < 59; ++i) last = train_step(*state, tokens, false).loss;
    EXPECT_LT(last, first - 0.3) << optimizer;
    EXPECT_GT(std::abs(state->store.master(scale).item<double>() - scale_first), 0.01) << optimizer;
  }
}

TEST(GradientNorm, EqualsTheReferenceAndSeesWhatIsNotFinite) {
  const std::vector<at::Tensor> tensors = {at::randn({3, 100, 200}), at::randn({1, 1, 7})};
  // An fp64 sum in another order.
  EXPECT_NEAR(gradient_norm(tensors), gradient_norm_reference(tensors), 1e-10);
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor damaged = tensors[0].clone();
    damaged.view({-1}).select(0, 59999).fill_(bad);
    EXPECT_FALSE(std::isfinite(gradient_norm({damaged})));
  }
  EXPECT_EQ(gradient_norm({}), 0);
}

TEST(GroupSlice, EverySequenceBelongsToExactlyOneGroup) {
  for (const int64_t sequences : {1, 7, 8, 9}) {
    for (const int64_t ranks : {1, 2, 3, 8}) {
      int64_t next = 0;
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const Slice slice = group_slice(sequences, rank, ranks);
        EXPECT_EQ(slice.first, next);
        next += slice.count;
      }
      EXPECT_EQ(next, sequences);
    }
  }
}

TEST_F(Step, TheLossIsThatOfTheQuantizedModelAndEveryMatrixGetsAGradient) {
  const TokenDataset tokens = data();
  Recipe recipe = resolved_test_recipe(shards);
  recipe.qat.bits = "16-3-3";
  const auto state = make_state(recipe);
  const Batch batch = read_batch(tokens,
                                 {.seed = uint64_t(recipe.run.seed),
                                  .context = recipe.model.context,
                                  .sequences_per_step = sequences_per_step(recipe)},
                                 0, 0, sequences_per_step(recipe), false);
  FakeQuantTap tap(state->store, parse_bits(recipe.qat.bits));
  const double quantized = validation_loss(*state, batch, &tap);
  const double plain = validation_loss(*state, batch);
  // Equal numbers; only the loss is summed by another routine: a few units of 6e-8.
  EXPECT_NEAR(train_step(*state, tokens, false).loss, quantized, 1e-6 * quantized);
  EXPECT_GT(std::abs(quantized - plain), 1e-4);
  for (const Bank& bank : state->store.banks) {
    EXPECT_GT(gradient_norm({bank.gradient}), 0.0) << bank.name;
  }
}

TEST_F(Step, QuantizersStartAtTheirStepAndChangeNothingBefore) {
  const TokenDataset tokens = data();
  Recipe recipe = test_recipe(shards);
  const auto plain = make_state(resolved_recipe(recipe, 64));
  recipe.qat.bits = "4-4-4";
  recipe.qat.start_step = 2;
  const auto aware = make_state(resolved_recipe(recipe, 64));
  for (int step = 0; step < 2; ++step) {
    train_step(*plain, tokens, false);
    train_step(*aware, tokens, false);
  }
  expect_equal(contents(*plain), contents(*aware));
  EXPECT_NE(train_step(*plain, tokens, false).loss, train_step(*aware, tokens, false).loss);
}

TEST_F(Step, QuantizersOfTheDecayBeginWithItsFirstStep) {
  const TokenDataset tokens = data();
  Recipe recipe = test_recipe(shards);
  recipe.train.steps = 5;
  recipe.train.tokens = 0;
  recipe.schedule.warmup_steps = 1;
  recipe.schedule.kind = "wsd";
  recipe.schedule.decay_steps = 2;
  const auto plain = make_state(resolved_recipe(recipe, 64));
  recipe.qat.bits = "16-3-16";
  recipe.qat.points = "mlp_product";
  recipe.qat.start = "decay";
  const auto aware = make_state(resolved_recipe(recipe, 64));
  for (int step = 0; step < 3; ++step) {
    EXPECT_DOUBLE_EQ(train_step(*plain, tokens, false).values.lr,
                     train_step(*aware, tokens, false).values.lr);
  }
  expect_equal(contents(*plain), contents(*aware));
  const StepReport first = train_step(*plain, tokens, false);
  EXPECT_NE(first.loss, train_step(*aware, tokens, false).loss);
  // The first step of the decay is still at the peak; the second is below it.
  EXPECT_LT(train_step(*plain, tokens, false).values.lr, first.values.lr);
}

TEST_F(Step, QuantizationThatCouldNotBeginIsRefused) {
  Recipe recipe = test_recipe(shards);
  recipe.qat.bits = "16-4-16";
  recipe.qat.start = "decay";
  recipe.schedule.kind = "constant";
  const auto refused = [&](const char* part) {
    EXPECT_NE(message_of(ErrorCode::usage, [&] { resolved_recipe(recipe, 64); }).find(part),
              std::string::npos);
  };
  refused("never decays");
  recipe.schedule.kind = "wsd";
  recipe.qat.start_step = 7;
  refused("contradict each other");
  recipe.qat.start_step = 0;
  recipe.qat.points = "mlp";
  refused("qat.points = \"mlp\"");
  recipe.qat.points = "mlp_product";
  recipe.qat.bits = "4-16-4";
  refused("no point would be quantized");
}

}  // namespace
}  // namespace osp
