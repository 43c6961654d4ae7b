#include "osp/measure/outlier_tap.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/philox.h"
#include "osp/measure/outliers.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

at::Tensor gaussian_BTD(int64_t batch, int64_t length, int64_t width) {
  at::Tensor x = at::zeros({batch, length, width}, at::kFloat);
  RandomStream(2, "outliers")
      .fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0.0, 1.0);
  return x;
}

ParameterStore small_model() {
  ModelConfig config;
  config.layers = 3;
  config.width = 64;
  config.vocabulary = 40;
  config.context = 16;
  config.init_std = 0.2;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 1);
  return store;
}

TEST(OutlierTap, KurtosisIsTheMeanOverTokens) {
  const at::Tensor x = gaussian_BTD(3, 5, 32);
  OutlierTap tap(1);
  tap.begin(at::arange(15, at::kLong).view({3, 5}), 0);
  tap.at(TapPoint::residual, 0, x);
  double expected = 0.0;
  for (int64_t row = 0; row < 15; ++row) {
    expected += excess_kurtosis(moments_reference({x.const_data_ptr<float>() + 32 * row, 32}));
  }
  EXPECT_NEAR(tap.kurtosis()[1].mean(), expected / 15, 1e-12);  // fp64 on both sides
  EXPECT_TRUE(std::isnan(tap.kurtosis()[0].mean()));            // no embedding was seen
}

TEST(OutlierTap, LargestActivationHasItsPlace) {
  at::Tensor x = gaussian_BTD(3, 5, 32);
  x.select(0, 2).select(0, 1).select(0, 17).fill_(-80.0);
  x.select(0, 1).select(0, 4).select(0, 3).fill_(79.0);
  OutlierTap tap(2);
  tap.begin(at::arange(100, 115, at::kLong).view({3, 5}), 10);
  tap.at(TapPoint::embedding, 0, gaussian_BTD(3, 5, 32));
  tap.at(TapPoint::residual, 0, x);
  EXPECT_EQ(tap.largest().value, 80.0);
  EXPECT_EQ(tap.largest().layer, 1);
  EXPECT_EQ(tap.largest().sequence, 12);
  EXPECT_EQ(tap.largest().position, 1);
  EXPECT_EQ(tap.largest().channel, 17);
  EXPECT_EQ(tap.largest().token, 111);
}

TEST(OutlierTap, NotANumberShowsInsteadOfVanishing) {
  at::Tensor x = gaussian_BTD(1, 4, 32);
  x.select(1, 2).select(1, 9).fill_(NAN);
  OutlierTap tap(1);
  tap.begin(at::arange(4, at::kLong).view({1, 4}), 0);
  tap.at(TapPoint::embedding, 0, x);
  EXPECT_TRUE(std::isnan(tap.kurtosis()[0].mean()));
  EXPECT_TRUE(std::isinf(tap.largest().value));
  EXPECT_EQ(tap.largest().position, 2);
  EXPECT_EQ(tap.largest().channel, 9);
}

TEST(OutlierTap, SplittingAndMergingGivesTheSame) {
  const at::Tensor x = gaussian_BTD(6, 7, 48), ids = at::arange(42, at::kLong).view({6, 7});
  OutlierTap whole(1, true), first(1, true), second(1, true);
  whole.begin(ids, 0);
  whole.at(TapPoint::residual, 0, x);
  first.begin(ids.narrow(0, 0, 2), 0);
  first.at(TapPoint::residual, 0, x.narrow(0, 0, 2));
  second.begin(ids.narrow(0, 2, 4), 2);
  second.at(TapPoint::residual, 0, x.narrow(0, 2, 4));
  second.merge(first);
  EXPECT_NEAR(second.kurtosis()[1].mean(), whole.kurtosis()[1].mean(), 1e-12);
  EXPECT_EQ(second.largest().sequence, whole.largest().sequence);
  EXPECT_EQ(second.largest().channel, whole.largest().channel);
  const auto key = std::make_pair(TapPoint::residual, int64_t{1});
  EXPECT_EQ(second.points().at(key).histogram.occupied().counts,
            whole.points().at(key).histogram.occupied().counts);
  EXPECT_NEAR(second.points().at(key).moments.m4 / whole.points().at(key).moments.m4, 1.0, 1e-12);
}

TEST(AttentionLogitTap, TheFutureDoesNotCount) {
  at::Tensor logits = at::zeros({1, 2, 4, 4}, at::kFloat);
  logits.select(1, 0).select(1, 1).select(1, 3).fill_(50.0);  // query 1 cannot see key 3
  logits.select(1, 1).select(1, 3).select(1, 2).fill_(7.0);
  AttentionLogitTap tap;
  tap.at(TapPoint::attention_logits, 5, logits);
  EXPECT_EQ(tap.largest(), 7.0);
  EXPECT_EQ(tap.layer(), 5);
  EXPECT_EQ(tap.head(), 1);
}

TEST(AttentionLogitTap, OtherDocumentsDoNotCount) {
  at::Tensor logits = at::zeros({1, 2, 4, 4}, at::kFloat);
  logits.select(1, 0).select(1, 3).select(1, 1).fill_(50.0);  // from the second to the first
  logits.select(1, 1).select(1, 3).select(1, 2).fill_(7.0);
  AttentionLogitTap tap;
  tap.begin(at::arange(4, at::kInt).floor_divide(2).view({1, 4}));
  tap.at(TapPoint::attention_logits, 5, logits);
  EXPECT_EQ(tap.largest(), 7.0);
  EXPECT_EQ(tap.head(), 1);
}

TEST(MeasureOutliers, BatchesDoNotMatter) {
  const ParameterStore store = small_model();
  const at::Tensor ids = at::arange(80, at::kLong).remainder(37).view({5, 16});
  OutlierOptions one, all;
  one.batch_tokens = 16;
  const OutlierReport a = measure_outliers(store, ids, one), b = measure_outliers(store, ids, all);
  ASSERT_EQ(a.per_layer.size(), 4u);
  // The forward pass may sum in another order with another batch: fp32 rounding of the states.
  EXPECT_NEAR(a.mean, b.mean, 1e-4);
  EXPECT_NEAR(a.clipped_mean, b.clipped_mean, 1e-4);
  EXPECT_NEAR(a.largest.value, b.largest.value, 1e-4 * a.largest.value);
  EXPECT_EQ(a.tokens, 80);
  EXPECT_EQ(a.per_layer[0], b.per_layer[0]);  // the embedding is a lookup and one product
}

TEST(MeasureOutliers, WithADocumentMaskEveryDocumentIsASequenceOfItsOwn) {
  const ParameterStore store = small_model();
  const at::Tensor ids = at::arange(64, at::kLong).remainder(37);
  const OutlierReport alone = measure_outliers(store, ids.view({8, 8}), {.attention_sequences = 8});
  const at::Tensor documents = at::arange(64, at::kInt).floor_divide(8).view({4, 16});
  const OutlierReport masked =
      measure_outliers(store, ids.view({4, 16}),
                       {.documents_BT = documents, .attention_sequences = 4, .batch_tokens = 32});
  // Rotary positions differ by 8 but not their differences: fp32 rounding of the states.
  EXPECT_NEAR(masked.mean, alone.mean, 1e-4);
  EXPECT_NEAR(masked.largest.value, alone.largest.value, 1e-4 * alone.largest.value);
  EXPECT_NEAR(masked.largest_attention_logit, alone.largest_attention_logit,
              1e-4 * alone.largest_attention_logit);
  const OutlierReport open = measure_outliers(store, ids.view({4, 16}), {.attention_sequences = 4});
  EXPECT_GT(std::abs(open.mean - alone.mean), 1e-3) << "the mask matters in this example";
}

TEST(MeasureOutliers, LossIsTheMeanOverScoredTargets) {
  const ParameterStore store = small_model();
  const at::Tensor ids = at::arange(80, at::kLong).remainder(37).view({5, 16});
  at::Tensor targets = ids.add(1);
  targets.select(0, 2).fill_(-1);
  const OutlierReport report =
      measure_outliers(store, ids, {.targets_BT = targets, .batch_tokens = 32});
  const double expected = forward_loss_sum(store, ids, targets).item<double>() / 64;
  EXPECT_NEAR(report.loss, expected, 1e-6 * expected);  // fp32 sums in another order
  EXPECT_TRUE(std::isnan(measure_outliers(store, ids).loss));
}

TEST(MeasureOutliers, WatchingChangesNothing) {
  const ParameterStore store = small_model();
  const at::Tensor ids = at::arange(32, at::kLong).view({2, 16});
  OutlierTap tap(store.config.layers, true);
  tap.begin(ids, 0);
  ForwardOptions watched;
  watched.tap = &tap;
  EXPECT_TRUE(forward_logits(store, ids, watched).equal(forward_logits(store, ids)));
}

TEST(MeasureOutliers, EveryTapPointHasItsHistogram) {
  const ParameterStore store = small_model();
  OutlierOptions options;
  options.histograms = true;
  const OutlierReport report =
      measure_outliers(store, at::arange(32, at::kLong).view({2, 16}), options);
  // L + 1 residual states, 7 points in each block, the final state and the head's input.
  EXPECT_EQ(report.points.size(), 4u + 7u * 3u + 2u);
  for (const auto& [key, statistics] : report.points) {
    EXPECT_GT(statistics.moments.count, 0);
    EXPECT_FALSE(statistics.histogram.occupied().counts.empty());
  }
}

}  // namespace
}  // namespace osp
