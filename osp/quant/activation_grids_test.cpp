// Groups and offsets of activations: what FakeQuantTap makes of them, and what is refused.
#include "osp/quant/activation_grids.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/model/transformer.h"
#include "osp/ops/test_tensors.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

constexpr BitWidths kFourBitActivations{16, 4, 16};

// Width 64, two heads of 32, inner size 192.
ParameterStore grouped_model() {
  ModelConfig config;
  config.layers = 1;
  config.width = 64;
  config.heads = 2;
  config.inner = 192;
  config.vocabulary = 50;
  config.context = 16;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 3);
  return store;
}

at::Tensor input_of(int64_t channels) { return gaussian(6, channels, "x").view({1, 6, channels}); }

at::Tensor tapped(const ParameterStore& store, const ActivationGrids& grids, TapPoint point,
                  const at::Tensor& x) {
  return FakeQuantTap(store, kFourBitActivations, {}, grids).at(point, 0, x);
}

TEST(ActivationGroups, DownGroupsAreThoseOfTheDownProjectionAlone) {
  const ParameterStore store = grouped_model();
  const ActivationGrids grids{.groups = {.down = 64}};
  const at::Tensor product = input_of(192), x = input_of(64);
  EXPECT_TRUE(at::equal(tapped(store, grids, TapPoint::mlp_product, product),
                        fake_quantize_asymmetric(product, 4, 64, GroupRange::contains_zero)));
  for (const TapPoint point :
       {TapPoint::attention_input, TapPoint::attention_output, TapPoint::mlp_input}) {
    EXPECT_TRUE(at::equal(tapped(store, grids, point, x), tapped(store, {}, point, x)));
  }
}

TEST(ActivationGroups, TheProfilesGroupsAreThoseOf32WhereTheyDivideEverySize) {
  ModelConfig config = grouped_model().config;
  EXPECT_EQ(best_activation_groups(config).inputs, 32);
  check_activation_groups(best_activation_groups(config), config);
  config.head_size = 16;  // a whole head at the output projection
  EXPECT_EQ(best_activation_groups(config).inputs, 32);
  check_activation_groups(best_activation_groups(config), config);
  config.head_size = 48;
  EXPECT_FALSE(best_activation_groups(config).any());
  config = grouped_model().config;
  config.inner = 200;
  EXPECT_FALSE(best_activation_groups(config).any());
  config = grouped_model().config;
  config.width = 80;
  EXPECT_FALSE(best_activation_groups(config).any());
}

TEST(ActivationGroups, GroupsOfAllInputsAreAtMostAHeadAtTheOutputProjection) {
  const ParameterStore store = grouped_model();
  const at::Tensor product = input_of(192), x = input_of(64);
  const ActivationGrids fine{.groups = {.inputs = 16}}, coarse{.groups = {.inputs = 64}};
  for (const TapPoint point : {TapPoint::attention_input, TapPoint::mlp_input}) {
    EXPECT_TRUE(at::equal(tapped(store, fine, point, x),
                          fake_quantize_asymmetric(x, 4, 16, GroupRange::contains_zero)));
  }
  EXPECT_TRUE(at::equal(tapped(store, fine, TapPoint::mlp_product, product),
                        fake_quantize_asymmetric(product, 4, 16, GroupRange::contains_zero)));
  EXPECT_TRUE(at::equal(tapped(store, fine, TapPoint::attention_output, x),
                        fake_quantize_asymmetric(x, 4, 16, GroupRange::free)));
  EXPECT_TRUE(at::equal(tapped(store, coarse, TapPoint::attention_output, x),
                        fake_quantize_asymmetric(x, 4, 32, GroupRange::free)));
  const ActivationGrids both{.groups = {.inputs = 16, .down = 96}};
  EXPECT_TRUE(at::equal(tapped(store, both, TapPoint::mlp_product, product),
                        fake_quantize_asymmetric(product, 4, 96, GroupRange::contains_zero)));
}

TEST(ActivationGroups, SizesThatDoNotDivideAreRefused) {
  const ParameterStore store = grouped_model();
  const auto refusal = [&](const ActivationGroups& groups) {
    return message_of(ErrorCode::usage, [&] { check_activation_groups(groups, store.config); });
  };
  EXPECT_EQ(refusal({.inputs = 48}),
            "--activation-group 48: groups of 48 do not divide the width 64; choose a group that "
            "does");
  EXPECT_NE(refusal({.down = 128}).find("--down-group 128: groups of 128 do not divide the inner"),
            std::string::npos);
  ModelConfig config = store.config;
  config.width = 48;
  config.head_size = 20;
  EXPECT_NE(message_of(ErrorCode::usage, [&] { check_activation_groups({.inputs = 16}, config); })
                .find("head size 20"),
            std::string::npos);
  // A group of the down projection's own need not be one of the others.
  config = store.config;
  config.inner = 200;
  EXPECT_NO_THROW(check_activation_groups({.inputs = 16, .down = 50}, config));
}

TEST(InputOffsets, WhatIsLeftWithoutThemIsRoundedAndTheyAreAddedAgain) {
  const ParameterStore store = grouped_model();
  const at::Tensor x = input_of(64), offset = gaussian(1, 64, "m").view({64}).mul(10.0);
  ActivationGrids grids;
  grids.offsets[{TapPoint::mlp_input, 0}] = offset;
  const at::Tensor shifted = x + offset;
  const at::Tensor wanted =
      fake_quantize_asymmetric(shifted - offset, 4, 64, GroupRange::contains_zero) + offset;
  EXPECT_TRUE(at::equal(tapped(store, grids, TapPoint::mlp_input, shifted), wanted));
  // A constant ten times as large as what varies takes most of the levels.
  const auto error = [&](const ActivationGrids& used) {
    return tapped(store, used, TapPoint::mlp_input, shifted)
        .sub(shifted)
        .square()
        .mean()
        .item<double>();
  };
  EXPECT_LT(error(grids), 0.05 * error({}));
  // Other points and other layers have no offset.
  EXPECT_TRUE(at::equal(tapped(store, grids, TapPoint::attention_input, shifted),
                        tapped(store, {}, TapPoint::attention_input, shifted)));
}

TEST(InputOffsets, StaticScalesAreThoseOfWhatIsLeft) {
  const ParameterStore store = grouped_model();
  const at::Tensor x = input_of(64), offset = gaussian(1, 64, "m").view({64});
  const StaticScale scale{0.4, 8.0};
  ActivationGrids grids;
  grids.offsets[{TapPoint::mlp_input, 0}] = offset;
  grids.scales[{TapPoint::mlp_input, 0}] = scale;
  EXPECT_TRUE(at::equal(tapped(store, grids, TapPoint::mlp_input, x),
                        fake_quantize_static(x - offset, 4, scale) + offset));
}

TEST(InputOffsets, ABf16InputIsShiftedInFp32AndKeepsItsType) {
  const ParameterStore store = grouped_model();
  const at::Tensor x = input_of(64).to(at::kBFloat16), offset = gaussian(1, 64, "m").view({64});
  ActivationGrids grids;
  grids.offsets[{TapPoint::mlp_input, 0}] = offset;
  const at::Tensor y = tapped(store, grids, TapPoint::mlp_input, x);
  const at::Tensor wanted =
      fake_quantize_asymmetric(x.to(at::kFloat) - offset, 4, 64, GroupRange::contains_zero) +
      offset;
  EXPECT_TRUE(at::equal(y, wanted.to(at::kBFloat16)));
}

TEST(InputOffsets, WithoutRoundingTheLogitsAreBitIdentical) {
  const ParameterStore store = grouped_model();
  ActivationGrids grids;
  for (const TapPoint point : offset_points(MeanOffset::all)) {
    const int64_t channels = point == TapPoint::mlp_product ? 192 : 64;
    grids.offsets[{point, 0}] = gaussian(1, channels, "m").view({channels});
  }
  FakeQuantTap tap(store, {}, {}, grids);
  ForwardOptions options;
  const at::Tensor tokens = gaussian(2, 16, "t").mul(8.0).abs().to(at::kLong);
  const at::Tensor plain = forward_logits(store, tokens, options);
  options.tap = &tap;
  EXPECT_TRUE(at::equal(forward_logits(store, tokens, options), plain));
}

TEST(MeanOffset, NamesAreReadBackAsTheyAreShown) {
  for (const MeanOffset inputs : {MeanOffset::none, MeanOffset::residual, MeanOffset::all}) {
    EXPECT_EQ(parse_mean_offset(mean_offset_name(inputs)), inputs);
  }
  EXPECT_EQ(message_of(ErrorCode::usage, [] { parse_mean_offset("some"); }),
            "--mean-offset some: expected none, residual or all");
}

}  // namespace
}  // namespace osp
