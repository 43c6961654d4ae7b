#include "osp/diagnose/remedies.h"

#include <gtest/gtest.h>

#include <cmath>

#include "osp/diagnose/linear_noise.h"
#include "osp/model/test_model.h"

namespace osp {
namespace {

ModelConfig small_config(int64_t inner) {
  ModelConfig config;
  config.layers = 2;
  config.width = 64;
  config.heads = 4;
  config.inner = inner;
  config.vocabulary = 50;
  config.context = 32;
  config.norm = "rms";
  config.embedding_projection = false;
  config.init_std = 0.15;
  return resolved_config(config);
}

std::vector<int64_t> sample(int64_t count) {
  std::vector<int64_t> ids(static_cast<size_t>(count));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>((i * i + 7 * i) % 50);
  return ids;
}

InputOffsets reader_means(const TurnedModel& model, std::span<const int64_t> ids) {
  LinearNoiseTap tap(model.store(), model.online());
  watch_tokens(model.store(), ids, 0, tap);
  return tap.reader_means();
}

// The divergence with grids of one's own.
double divergence(const TurnedModel& model, std::span<const int64_t> ids,
                  const ActivationGrids& grids) {
  FakeQuantTap rounded(model.store(), {4, 4, 4}, model.online(), grids);
  return measure_divergence(model.store(), model.store(), ids, {.changed_tap = &rounded})
      .divergence;
}

TEST(Remedies, AreThoseOptionsOfQuantizeAndTheirDivergences) {
  const TurnedModel model(initialized_model(small_config(128), 11));
  const std::vector<int64_t> ids = sample(320);
  const InputOffsets means = reader_means(model, ids);
  EXPECT_EQ(means.size(), 4u);  // two inputs of two layers
  const std::vector<Remedy> found = measure_remedies(model, ids, {.means = means});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0].options(), "--down-group 64");
  EXPECT_EQ(found[1].options(), "--mean-offset residual");
  EXPECT_EQ(found[2].options(), "--down-group 64 --mean-offset residual");
  // The 16-bit side goes through the Hadamard of queries and keys here: fp32 rounding.
  const auto expect = [](double kl, double wanted) { EXPECT_NEAR(kl, wanted, 1e-3 * wanted); };
  expect(found[0].kl, divergence(model, ids, {.groups = {.down = 64}}));
  expect(found[1].kl, divergence(model, ids, {.offsets = means}));
  expect(found[2].kl, divergence(model, ids, {.groups = {.down = 64}, .offsets = means}));
}

TEST(Remedies, ThePlantedMeanIsGivenBackByItsOffset) {
  // A constant vector on every embedding: the mean over tokens is most of what the readers get.
  ParameterStore store = initialized_model(small_config(128), 11);
  const at::Tensor table = store.master(store.find(ParameterRole::embedding));
  table.add_(table.select(0, 0).clone().mul_(6));
  sync_compute(store);
  const TurnedModel model(std::move(store));
  const std::vector<int64_t> ids = sample(320);
  const std::vector<Remedy> found =
      measure_remedies(model, ids, {.means = reader_means(model, ids)});
  ASSERT_EQ(found.size(), 3u);
  const double as_it_is = divergence(model, ids, {});
  EXPECT_LT(found[1].kl, 0.8 * as_it_is);
  EXPECT_GT(found[0].kl, 0.8 * as_it_is);
}

TEST(Remedies, AreLeftOutWhereTheyDoNotApply) {
  EXPECT_EQ(remedy_group(small_config(96)), 32);
  EXPECT_EQ(remedy_group(small_config(100)), 0);
  const TurnedModel model(initialized_model(small_config(100), 11));
  const std::vector<int64_t> ids = sample(64);
  EXPECT_TRUE(measure_remedies(model, ids, {}).empty());  // no group, no means
  const std::vector<Remedy> found =
      measure_remedies(model, ids, {.means = reader_means(model, ids)});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].options(), "--mean-offset residual");
  EXPECT_TRUE(measure_remedies(model, ids, {.bits = {4, 16, 16}, .means = reader_means(model, ids)})
                  .empty());
}

}  // namespace
}  // namespace osp
