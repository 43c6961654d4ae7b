// Settings of a recipe that a training step must obey: the document mask and gradient clipping.
// Each test fails if the setting is ignored.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/data/batch.h"
#include "osp/model/transformer.h"
#include "osp/optim/optimizers.h"
#include "osp/train/batch_tensors.h"
#include "osp/train/step.h"
#include "osp/train/test_run.h"
#include "osp/train/validation.h"

namespace osp {
namespace {

struct RecipeEffect : ::testing::Test {
  TestFolder folder;
  std::string shards = folder / "tokens";
  void SetUp() override { write_test_shards(shards); }
  TokenDataset data(const char* split = "train") { return TokenDataset::open(shards, split); }
};

// Every fifth token ends a document, so that each sequence has several.
void write_short_documents(const std::string& path) {
  ShardSetWriter writer(path, {.vocabulary = 64, .end_of_document = 0});
  const RandomStream random(3, "short documents");
  for (const char* split : {"train", "validation"}) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 2000; ++i) {
      ids.push_back(i % 5 == 4 ? 0 : static_cast<int32_t>(1 + random.below(i, 63)));
    }
    writer.append(split, ids, 400);
  }
  writer.commit();
}

// Makes what a token attends to count: at initialisation attention adds next to nothing.
void amplify_attention(TrainState& state) {
  const at::NoGradGuard no_grad;
  for (const char* name : {"v_proj", "o_proj"}) {
    const std::string full = std::string("model.layers.0.self_attn.") + name + ".weight";
    state.store.master(state.store.find(full)).mul_(8);
  }
  state.store.master(state.store.find("lm_head.weight")).mul_(8);
  sync_compute(state.store);
}

// Loss sum of a batch with each document in a forward pass of its own, where nothing can be seen of
// the others. Rotary positions are relative, so where a document begins makes no difference.
double loss_of_documents_alone(const TrainState& state, const Batch& batch) {
  const at::NoGradGuard no_grad;
  const int64_t context = state.recipe.model.context;
  const BatchTensors all = as_tensors(batch, context);
  double sum = 0;
  for (int64_t row = 0; row < all.tokens_BT.size(0); ++row) {
    for (int64_t first = 0, last = 0; first < context; first = last) {
      const size_t start = static_cast<size_t>(row * context);
      while (last < context &&
             batch.documents[start + size_t(last)] == batch.documents[start + size_t(first)]) {
        ++last;
      }
      const auto part = [&](const at::Tensor& x_BT) {
        return x_BT.narrow(0, row, 1).narrow(1, first, last - first).contiguous();
      };
      sum += forward_loss_sum(state.store, part(all.tokens_BT), part(all.targets_BT), {})
                 .item<double>();
    }
  }
  return sum;
}

// The loss of the batch as if it were one document.
double loss_without_mask(const TrainState& state, const Batch& batch) {
  const at::NoGradGuard no_grad;
  const BatchTensors all = as_tensors(batch, state.recipe.model.context);
  return forward_loss_sum(state.store, all.tokens_BT, all.targets_BT, {}).item<double>();
}

// The kind: a setting that nothing obeys.
TEST_F(RecipeEffect, UnderTheDocumentMaskEachDocumentIsTrainedAsIfItWereAlone) {
  const std::string path = folder / "short";
  write_short_documents(path);
  const TokenDataset tokens = TokenDataset::open(path, "train");
  for (const char* precision : {"fp32", "bf16"}) {
    Recipe recipe = resolved_test_recipe(path);
    recipe.data.document_mask = true;
    recipe.train.precision = precision;
    recipe.train.micro_batch_sequences = 3;
    const auto state = make_state(recipe);
    for (int i = 0; i < 3; ++i) train_step(*state, tokens, false);
    amplify_attention(*state);
    const BatchPlan plan{.seed = uint64_t(recipe.run.seed),
                         .context = recipe.model.context,
                         .sequences_per_step = sequences_per_step(recipe)};
    const Batch batch = read_batch(tokens, plan, state->step, 0, plan.sequences_per_step, true);
    const auto scored = static_cast<double>(num_scored(batch));
    const double alone = loss_of_documents_alone(*state, batch) / scored;
    const double mixed = loss_without_mask(*state, batch) / scored;
    // fp32 sums in another order; bf16 has 8 bits, of which averages over positions cancel some.
    const double tolerance = precision == std::string("fp32") ? 1e-5 : 1e-2;
    ASSERT_GT(std::abs(mixed - alone), 5 * tolerance) << precision << ": nothing to be seen";
    EXPECT_NEAR(train_step(*state, tokens, false).loss, alone, tolerance) << precision;
  }
}

TEST_F(RecipeEffect, UnderTheDocumentMaskEachDocumentIsValidatedAsIfItWereAlone) {
  const std::string path = folder / "short";
  write_short_documents(path);
  Recipe recipe = resolved_test_recipe(path);
  recipe.data.document_mask = true;
  const auto state = make_state(recipe);
  amplify_attention(*state);
  const TokenDataset held_out = TokenDataset::open(path, "validation");
  const Batch slice = read_validation(recipe, held_out);
  const auto scored = static_cast<double>(num_scored(slice));
  const double alone = loss_of_documents_alone(*state, slice) / scored;
  ASSERT_GT(std::abs(loss_without_mask(*state, slice) / scored - alone), 1e-4);
  EXPECT_NEAR(validation_loss(*state, slice), alone, 1e-5);  // fp32 sums in another order
  EXPECT_NEAR(validate(*state, slice, nullptr)["loss"].get<double>(), alone, 1e-5);
}

std::vector<at::Tensor> group_gradients(const TrainState& state, size_t group) {
  std::vector<at::Tensor> gradients;
  for (const Bank& bank : state.store.banks) {
    if (bank.group == static_cast<int64_t>(group)) gradients.push_back(bank.gradient);
  }
  return gradients;
}

Recipe clipped_recipe(const std::string& shards, const std::string& optimizer, double clip) {
  Recipe recipe = resolved_test_recipe(shards, optimizer);
  OptimConfig& optim = recipe.optim;
  optim.clip_adam = optim.clip_muon = optim.clip_gain = optim.clip_preconditioned = clip;
  return recipe;
}

TEST_F(RecipeEffect, TheGradientOfEachGroupIsScaledDownToItsLargestNormBeforeTheUpdate) {
  const TokenDataset tokens = data();
  for (const std::string& optimizer : recipe_optimizer_names()) {
    const auto free = make_state(clipped_recipe(shards, optimizer, 0));
    const StepReport as_it_is = train_step(*free, tokens, false);
    const double clip = 1e-4;
    const auto clipped = make_state(clipped_recipe(shards, optimizer, clip));
    const StepReport report = train_step(*clipped, tokens, false);
    ASSERT_EQ(report.skipped, "");
    EXPECT_EQ(report.gradient_norms, as_it_is.gradient_norms) << "reported before clipping";
    for (size_t g = 0; g < clipped->routing.groups.size(); ++g) {
      SCOPED_TRACE(optimizer + " " + clipped->routing.groups[g].name);
      const double norm = report.gradient_norms[g];
      ASSERT_GT(norm, 2 * clip);
      // One rounding of each element to fp32.
      EXPECT_NEAR(gradient_norm(group_gradients(*clipped, g)), clip, 1e-6 * clip);
      const std::vector<at::Tensor> whole = group_gradients(*free, g);
      const std::vector<at::Tensor> scaled = group_gradients(*clipped, g);
      for (size_t i = 0; i < whole.size(); ++i) {
        EXPECT_TRUE(at::allclose(scaled[i], whole[i] * (clip / norm), 1e-5, 0));
      }
    }
  }
}

TEST_F(RecipeEffect, AdamsMeanHoldsTheClippedGradient) {
  const TokenDataset tokens = data();
  const double clip = 1e-4;
  const auto state = make_state(clipped_recipe(shards, "adam", clip));
  train_step(*state, tokens, false);
  double square = 0;
  for (const auto& optimizer : state->optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) {
      if (name.find("mean") == std::string::npos) continue;
      const double norm = gradient_norm({tensor});
      square += norm * norm;
    }
  }
  const auto groups = static_cast<double>(state->routing.groups.size());
  EXPECT_NEAR(std::sqrt(square), (1 - state->recipe.optim.adam.beta1) * clip * std::sqrt(groups),
              1e-5 * clip);
}

TEST_F(RecipeEffect, AGradientBelowTheLargestNormIsLeftAsItIs) {
  const TokenDataset tokens = data();
  const auto free = make_state(clipped_recipe(shards, "osp", 0));
  const auto wide = make_state(clipped_recipe(shards, "osp", 1e3));
  for (int i = 0; i < 3; ++i) {
    train_step(*free, tokens, false);
    train_step(*wide, tokens, false);
  }
  for (size_t b = 0; b < free->store.banks.size(); ++b) {
    EXPECT_TRUE(at::equal(free->store.banks[b].master, wide->store.banks[b].master));
  }
}

}  // namespace
}  // namespace osp
