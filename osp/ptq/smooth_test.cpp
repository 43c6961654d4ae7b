#include <ATen/ops/arange.h>
#include <ATen/ops/linspace.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/model/fuse.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"
#include "osp/ptq/awq.h"
#include "osp/ptq/rotation_check.h"
#include "osp/ptq/rotation_store.h"
#include "osp/ptq/smooth_quant.h"
#include "osp/ptq/smooth_scale.h"
#include "osp/ptq/test_invariance.h"
#include "osp/ptq/test_model.h"
#include "osp/quant/fake_quant.h"

namespace osp {
namespace {

// A fused model whose normalised states have a few channels 30 times as large as the others.
ParameterStore outlier_model(const char* norm = "rms") {
  ModelConfig config = grouped_query_config(61, 32);
  config.norm = norm;
  config.embedding_projection = false;
  config.init_std = 0.15;
  ParameterStore store = initialized_model(config, 7);
  for (size_t i = 0; i < store.specs.size() && std::string(norm) == "rms"; ++i) {
    at::Tensor w = store.master(static_cast<int64_t>(i));
    if (store.specs[i].kind == ParameterKind::gain) {
      w.narrow(0, 3, 2).fill_(30.0);
    } else if (store.specs[i].name.find("proj") != std::string::npos && w.size(1) == 32) {
      w.narrow(1, 3, 2).mul_(1.0 / 30);  // as training balances them
    }
  }
  return store;
}

at::Tensor token_rows() { return at::arange(128, at::kLong).mul(7).remainder(61).view({4, 32}); }

double damage(const ParameterStore& store, const char* bits, const at::Tensor& exact) {
  FakeQuantTap tap(store, parse_bits(bits));
  ForwardOptions options;
  options.tap = &tap;
  return forward_logits(store, token_rows(), options).sub(exact).square().mean().item<double>();
}

TEST(ScaleSites, EveryInputOfALinearLayerHasOne) {
  const auto sites = scale_sites(outlier_model(), 1);
  ASSERT_EQ(sites.size(), 4u);
  EXPECT_EQ(sites[0].readers.size(), 3u);
  EXPECT_EQ(sites[1].group, 2);  // two query heads share a value head
  EXPECT_EQ(sites[3].channels, 48);
}

TEST(ScaleSites, FoldingAnyScaleLeavesTheLogitsInFp64) {
  const ParameterStore store = copy_in_fp64(outlier_model());
  for (size_t i = 0; i < 4; ++i) {
    ParameterStore scaled = copy_in_fp64(store);
    const ScaleSite site = scale_sites(scaled, 0)[i];
    const int64_t free_channels = site.channels / site.group;
    fold_scale(scaled, site, at::linspace(0.1, 9.0, free_channels, at::kDouble));
    EXPECT_LT(InvarianceCheck(store, token_rows()).change(scaled), 1e-12) << i;
    EXPECT_FALSE(scaled.master(site.readers[0]).equal(store.master(site.readers[0]))) << i;
  }
}

TEST(ScaleSites, ScalesInFrontOfExpertsAreFoldedIntoAllOfThemAndTheRouter) {
  const ParameterStore store = copy_in_fp64(small_expert_model());
  ParameterStore scaled = copy_in_fp64(store);
  const auto sites = scale_sites(scaled, 0);
  ASSERT_EQ(sites.size(), 3u);  // none in front of the down projections
  EXPECT_EQ(sites[2].readers.size(), 10u);
  fold_scale(scaled, sites[2], at::linspace(0.1, 9.0, store.config.width, at::kDouble));
  const at::Tensor tokens = at::arange(48, at::kLong).view({2, 24});
  EXPECT_LT(InvarianceCheck(store, tokens).change(scaled), 1e-12);
}

// Scales that are folded into readers and not into what makes their input, as a bug would.
TEST(FoldingCheck, ScalesThatMoveTheOutputOfABlockAreNoticedWhenTheyAreFolded) {
  const ParameterStore store = outlier_model();
  for (size_t i = 0; i < 4; ++i) {
    ScaleSite site = scale_sites(store, 0)[i];
    const at::Tensor s = at::linspace(0.1, 9.0, site.channels / site.group, at::kDouble);
    FoldingCheck right(store, 0), wrong(store, 0);
    right.fold(site, s);
    EXPECT_LT(right.expect_unchanged("a test"), 1e-12) << i;
    site.makers.clear();
    wrong.fold(site, s);
    EXPECT_THROW(wrong.expect_unchanged("a test"), std::logic_error) << i;
  }
}

TEST(ScaleSites, BiasesOfScaledOutputsAreScaledToo) {
  ModelConfig config = outlier_model().config;
  config.qkv_bias = config.mlp_bias = true;
  ParameterStore store = make_parameters(config, {});
  initialize_parameters(store, 7);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind != ParameterKind::bias) continue;
    at::Tensor bias = store.master(static_cast<int64_t>(i));
    RandomStream(8, store.specs[i].name)
        .fill_normal({bias.data_ptr<float>(), static_cast<size_t>(bias.numel())}, 0.0, 0.5);
  }
  const ParameterStore exact = copy_in_fp64(store);
  for (const ScaleSite& site : scale_sites(exact, 0)) {
    ParameterStore scaled = copy_in_fp64(exact);
    fold_scale(scaled, site, at::linspace(0.1, 9.0, site.channels / site.group, at::kDouble));
    EXPECT_LT(InvarianceCheck(exact, token_rows()).change(scaled), 1e-12)
        << static_cast<int>(site.input);
  }
}

TEST(ScaleSites, ClippedValuesCarryNoScale) {
  ModelConfig config = outlier_model().config;
  config.clip_qkv = 8.0;
  const auto sites = scale_sites(make_parameters(config, {}), 0);
  ASSERT_EQ(sites.size(), 3u);
  for (const ScaleSite& site : sites) EXPECT_NE(site.input, TapPoint::attention_output);
}

TEST(ScaleSites, StatisticsAreThoseOfTheInput) {
  const ParameterStore store = outlier_model();
  const ScaleSite site = scale_sites(store, 0)[0];
  const ChannelStatisticsTap tap = statistics_of(store, token_rows(), 16);
  const ChannelStatistics& s = tap.of(site);
  EXPECT_EQ(s.num_rows, 128);
  EXPECT_EQ(s.rows.size(0), 16);
  EXPECT_TRUE(s.rows.abs().amax(0).to(at::kDouble).le(s.largest).all().item<bool>());
  EXPECT_TRUE(s.mean().lt(s.largest).all().item<bool>());
  EXPECT_GT(s.largest[3].item<double>(), 10 * s.largest[0].item<double>());
}

TEST(SmoothQuant, LogitsStayInFp64) {
  const ParameterStore store = copy_in_fp64(outlier_model());
  ParameterStore smooth = copy_in_fp64(store);
  smooth_quant_all(smooth, token_rows());
  EXPECT_LT(InvarianceCheck(store, token_rows()).change(smooth), 1e-12);
}

TEST(SmoothQuant, ScaleFollowsTheFormula) {
  const ParameterStore store = outlier_model();
  ParameterStore smooth = copy_in_fp32(copy_in_fp64(store));
  smooth_quant_all(smooth, token_rows(), {.alpha = 0.5});
  const ScaleSite site = scale_sites(store, 0)[0];
  const ChannelStatisticsTap tap = statistics_of(store, token_rows(), 1);
  double largest_w = 0;
  for (const int64_t reader : site.readers) {
    largest_w = std::max(largest_w, store.master(reader).select(1, 3).abs().max().item<double>());
  }
  const double s = std::sqrt(tap.of(site).largest[3].item<double>() / largest_w);
  const double ratio = store.master(site.makers[0])[3].item<double>() /
                       smooth.master(site.makers[0])[3].item<double>();
  EXPECT_NEAR(ratio, s, 1e-5 * s);  // fp32 weights
}

TEST(SmoothQuant, QuantizedActivationsSufferLess) {
  const ParameterStore store = outlier_model();
  const at::Tensor exact = forward_logits(store, token_rows());
  ParameterStore smooth = copy_in_fp32(copy_in_fp64(store));
  smooth_quant_all(smooth, token_rows());
  EXPECT_LT(damage(smooth, "16-4-16", exact), 0.8 * damage(store, "16-4-16", exact));
}

TEST(SmoothQuant, ModelsWithASingleGainAreSmoothedOnceFused) {
  const ParameterStore fused = fuse(outlier_model("single-scale"));
  const ParameterStore store = copy_in_fp64(fused);
  ParameterStore smooth = copy_in_fp64(store);
  smooth_quant_all(smooth, token_rows());
  EXPECT_LT(InvarianceCheck(store, token_rows()).change(smooth), 1e-12);
}

TEST(SmoothQuant, UnfusedSingleGainsCannotCarryAScale) {
  ParameterStore store = outlier_model("single-scale");
  EXPECT_THROW(smooth_quant_all(store, token_rows()), std::logic_error);
}

TEST(SmoothQuant, ModelsWithoutNormsInFrontOfTheirBranchesAreRefused) {
  ModelConfig config = outlier_model().config;
  EXPECT_NO_THROW(check_smooth_quant(config));
  config.norm = "none";
  EXPECT_THROW(check_smooth_quant(config), Error);
}

TEST(Awq, LogitsStayInFp64WithoutClipping) {
  const ParameterStore store = copy_in_fp64(outlier_model());
  ParameterStore scaled = copy_in_fp64(store);
  awq_all(scaled, token_rows(), {.clip = false});
  EXPECT_LT(InvarianceCheck(store, token_rows()).change(scaled), 1e-12);
}

TEST(Awq, ChosenScaleNeverHasALargerErrorThanNone) {
  ParameterStore store = outlier_model();
  const auto choices = awq_all(store, token_rows());
  ASSERT_EQ(choices.size(), 8u);
  int64_t num_better = 0;
  for (const AwqChoice& choice : choices) {
    EXPECT_LE(choice.error_after, choice.error_before) << choice.input;
    num_better += choice.ratio > 0.0;
  }
  EXPECT_GE(num_better, 4);
}

TEST(Awq, QuantizedWeightsDoLessDamage) {
  const ParameterStore store = outlier_model();
  const at::Tensor exact = forward_logits(store, token_rows());
  ParameterStore scaled = copy_in_fp32(copy_in_fp64(store));
  awq_all(scaled, token_rows(), {.clip = false});
  EXPECT_LT(damage(scaled, "4-16-16", exact), 0.8 * damage(store, "4-16-16", exact));
}

TEST(Awq, ClipsEveryMatrixOfABlockButQueriesAndKeys) {
  ParameterStore scaled = outlier_model(), clipped = outlier_model();
  awq_all(scaled, token_rows(), {.clip = false});
  awq_all(clipped, token_rows());
  for (size_t i = 0; i < scaled.specs.size(); ++i) {
    const ParameterSpec& spec = scaled.specs[i];
    if (spec.kind != ParameterKind::matrix) continue;
    const bool same = scaled.master(static_cast<int64_t>(i)).equal(clipped.master(int64_t(i)));
    EXPECT_EQ(same, spec.role == ParameterRole::query || spec.role == ParameterRole::key)
        << spec.name;
  }
}

TEST(Awq, ClippingLowersTheOutputErrorOfALayer) {
  at::Tensor w = at::zeros({16, 64}, at::kFloat), x = at::zeros({100, 64}, at::kFloat);
  RandomStream(1, "w").fill_normal({w.data_ptr<float>(), 1024}, 0.0, 1.0);
  RandomStream(1, "x").fill_normal({x.data_ptr<float>(), 6400}, 0.0, 1.0);
  for (const int64_t group : {0, 32}) {
    const WeightGrid grid{.bits = 3, .group = group, .clipping_search = false};
    const auto error = [&](const at::Tensor& weight) {
      const at::Tensor q = round_to_nearest(weight, grid, "w").dequantized();
      return at::matmul(x, (q - w).t()).square().sum().item<double>();
    };
    const at::Tensor clipped = awq_clipped(w, x, grid);
    EXPECT_LT(error(clipped), error(w)) << group;
    EXPECT_TRUE(clipped.abs().le(w.abs()).all().item<bool>());
  }
}

}  // namespace
}  // namespace osp
