#include "osp/quant/activation_scales.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

double error(const at::Tensor& x, int64_t bits, const StaticScale& scale) {
  return fake_quantize_static(x, bits, scale).sub(x).square().mean().item<double>();
}

TEST(ActivationScales, StepOfAGaussianIsTheBestOne) {
  // Between the best steps of 15 and of 16 symmetric levels, 0.354 and 0.335 (Max 1960).
  const double step = gaussian_step(4);
  EXPECT_GT(step, 0.335);
  EXPECT_LT(step, 0.354);
  const at::Tensor x = gaussian(400, 1000, "x");
  for (const double factor : {0.9, 1.1}) {
    EXPECT_LT(error(x, 4, {step, 8.0}), error(x, 4, {factor * step, 8.0})) << factor;
  }
  EXPECT_LT(gaussian_step(8), gaussian_step(4) / 8.0);
}

TEST(ActivationScales, StepOfAGaussianIsThatOfTheIntegralInClosedForm) {
  // The least E[(x - q)^2] over the cells of the grid by moments of the normal law, minimized by
  // scipy; the sum of 8,000 points is that flat around its least that the step is found to a
  // fifth of a percent.
  const std::map<int64_t, double> steps = {{2, 1.0483852605},
                                           {3, 0.6018242330},
                                           {4, 0.3386079317},
                                           {6, 0.1041794406},
                                           {8, 0.0307655783}};
  for (const auto& [bits, step] : steps)
    EXPECT_NEAR(gaussian_step(bits), step, 0.0025 * step) << bits;
}

TEST(ActivationScales, OneConstantIsBetterThanTheRangeOfEveryTokenForAGaussian) {
  const at::Tensor x = gaussian(64, 2048, "x");
  const double by_token = fake_quantize_asymmetric(x, 4, 2048, GroupRange::contains_zero)
                              .sub(x)
                              .square()
                              .mean()
                              .item<double>();
  EXPECT_LT(error(x, 4, {gaussian_step(4), 8.0}), by_token);
}

TEST(ActivationScales, CodesAreThoseOfTheFormula) {
  const at::Tensor x = at::tensor({-10.0f, -0.3f, 0.25f, 0.75f, 0.8f, 10.0f});
  // 2 bits, scale 0.5, zero 2: codes 0 … 3 stand for −1, −0.5, 0, 0.5; halves go to the even code.
  const at::Tensor wanted = at::tensor({-1.0f, -0.5f, 0.0f, 0.5f, 0.5f, 0.5f});
  EXPECT_TRUE(fake_quantize_static(x, 2, {0.5, 2.0}).equal(wanted));
}

TEST(ActivationScales, CalibrationClipsOnlyWhereItPays) {
  const at::Tensor x = gaussian(100, 100, "x");
  const StaticScale scale = calibrated_scale(x, 4);
  EXPECT_NEAR(scale.scale, gaussian_step(4), 0.03);  // the grid of ranges has steps of 1 %
  EXPECT_GT(calibrated_scale(x, 8).scale, 0.9 * 7.0 / 255.0);  // 256 levels: hardly any clipping
  EXPECT_GT(calibrated_scale(at::zeros({4}), 4).scale, 0.0);
}

ParameterStore small_model() {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 2;
  config.vocabulary = 20;
  config.context = 16;
  config.norm = "rms";
  config.embedding_projection = false;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 3);
  return store;
}

TEST(ActivationScales, ANormsGainScalesTheConstantAndChannelWeightsAreRefused) {
  ParameterStore store = small_model();
  at::Tensor gain = store.master(store.find("model.layers.1.post_attention_layernorm.weight"));
  gain.fill_(-3.0);
  ActivationScales scales = norm_scales(store, 1, 4);
  EXPECT_EQ(scales.size(), 2u);
  scales.merge(norm_scales(store, 0, 4));
  EXPECT_DOUBLE_EQ(scales.at({TapPoint::mlp_input, 1}).scale, 3.0 * gaussian_step(4));
  EXPECT_DOUBLE_EQ(scales.at({TapPoint::mlp_input, 0}).scale, gaussian_step(4));
  gain.select(0, 2).fill_(1.0);
  try {
    norm_scales(store, 1, 4);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("layers.1.post_attention_layernorm"), std::string::npos);
  }
}

TEST(ActivationScales, TheTapUsesThemWhereTheyAreGiven) {
  const ParameterStore store = small_model();
  const StaticScale scale{0.3, 8.0};
  ActivationScales scales;
  scales[{TapPoint::mlp_input, 1}] = scale;
  FakeQuantTap tap(store, {16, 4, 16}, {}, {.scales = scales});
  const at::Tensor x = gaussian(6, 32, "x").view({1, 6, 32});
  EXPECT_TRUE(tap.at(TapPoint::mlp_input, 1, x).equal(fake_quantize_static(x, 4, scale)));
  EXPECT_TRUE(tap.at(TapPoint::mlp_input, 0, x)
                  .equal(fake_quantize_asymmetric(x, 4, 32, GroupRange::contains_zero)));
}

TEST(ActivationScales, BlocksWithoutNormsInFrontHaveNoConstant) {
  ParameterStore store = small_model();
  store.config.norm_after = true;
  EXPECT_THROW(norm_scales(store, 0, 4), Error);
  store.config.norm_after = false;
  store.config.norm = "none";
  EXPECT_THROW(norm_scales(store, 0, 4), Error);
}

}  // namespace
}  // namespace osp
