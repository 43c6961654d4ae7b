// Equality with an independent program is in tests/python/test_quantize.py.
#include "osp/ptq/gptq.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"

namespace osp {
namespace {

// Inputs whose channels are correlated, as those of a model are.
at::Tensor inputs(int64_t tokens, int64_t in, const char* name = "inputs") {
  return at::mm(gaussian(tokens, in, name), gaussian(in, in, "mixing").mul_(0.2)) +
         gaussian(tokens, in, "own");
}

at::Tensor gram(const at::Tensor& a, const at::Tensor& b) {
  return at::mm(a.t().to(at::kDouble), b.to(at::kDouble)).to(at::kFloat);
}

double output_error(const at::Tensor& w, const at::Tensor& x, const QuantizedLinear& q,
                    const at::Tensor& x_quantized) {
  return at::mm(x, w.t()).sub(at::mm(x_quantized, q.dequantized().t())).norm().item<double>();
}

int64_t differing_codes(const QuantizedLinear& a, const QuantizedLinear& b) {
  return a.codes.ne(b.codes).sum().item<int64_t>();
}

struct Setting {
  WeightGrid grid;
  GptqOptions options;
};

class GptqSettings : public testing::TestWithParam<Setting> {};

TEST_P(GptqSettings, AreThoseOfTheColumnByColumnTwin) {
  const auto& [grid, options] = GetParam();
  const at::Tensor w = gaussian(24, 96, "weight"), x = inputs(300, 96), h = gram(x, x);
  const RoundedLayer result = gptq(w, h, {}, grid, options, "w");
  const QuantizedLinear twin = gptq_reference(w, h, grid, options);
  EXPECT_TRUE(result.quantized.scale.equal(twin.scale));
  // fp32 updates against fp64 ones: a weight that comes to lie within 1e-6 of the edge between two
  // codes may get the other, and moves the later columns of its row by less than a code.
  EXPECT_LE(differing_codes(result.quantized, twin), 2);
  EXPECT_EQ(result.num_attempts, 1);
  check_quantized(result.quantized, "w");
}

INSTANTIATE_TEST_SUITE_P(
    All, GptqSettings,
    testing::Values(Setting{{}, {}}, Setting{{.bits = 3}, {.block = 32}},
                    Setting{{.bits = 4}, {.block = 40, .act_order = true}},
                    Setting{{.bits = 4, .group = 32}, {.block = 32, .act_order = true}},
                    Setting{{.bits = 4, .group = 32, .symmetric = false, .fp16_scales = true},
                            {.block = 48}},
                    Setting{{.bits = 8, .clipping_search = false}, {.damping = 0.1}},
                    Setting{float_weight_grid(NumberKind::mxfp4), {}},
                    Setting{float_weight_grid(NumberKind::nvfp4), {.block = 40, .act_order = true}},
                    Setting{float_weight_grid(NumberKind::fp8), {.block = 32}}));

TEST(Gptq, HasASmallerOutputErrorThanRounding) {
  const at::Tensor w = gaussian(32, 128, "weight"), x = inputs(512, 128);
  const double rounded = output_error(w, x, round_to_nearest(w, {}, "w"), x);
  EXPECT_LT(output_error(w, x, gptq(w, gram(x, x), {}, {}, {}, "w").quantized, x), 0.9 * rounded);
}

TEST(Gptq, ActOrderKeepsLateOutlierChannelsFromPushingWeightsOffTheGrid) {
  const at::Tensor w = gaussian(32, 128, "weight");
  at::Tensor x = inputs(512, 128);
  x.narrow(1, 100, 4).mul_(20.0);  // their error would be spread over 24 weaker channels
  const at::Tensor h = gram(x, x);
  const double plain = output_error(w, x, gptq(w, h, {}, {}, {}, "w").quantized, x);
  const double ordered =
      output_error(w, x, gptq(w, h, {}, {}, {.act_order = true}, "w").quantized, x);
  EXPECT_LT(ordered, 0.8 * plain);
  EXPECT_LT(ordered, output_error(w, x, round_to_nearest(w, {}, "w"), x));
}

TEST(Gptq, CorrectionsBringTheOutputNearerToThatOfTheOriginalInputs) {
  const at::Tensor w = gaussian(32, 96, "weight"), x = inputs(600, 96);
  const at::Tensor damaged = x + inputs(600, 96, "damage").mul_(0.15) - x.mul(0.05);
  const at::Tensor h = gram(damaged, damaged), d = gram(x - damaged, damaged);
  const auto error = [&](const GptqOptions& options) {
    const at::Tensor difference = options.correction == Correction::none ? at::Tensor() : d;
    return output_error(w, x, gptq(w, h, difference, {}, options, "w").quantized, damaged);
  };
  const double plain = error({.act_order = true});
  EXPECT_LT(error({.act_order = true, .correction = Correction::gptaq}), plain);
  EXPECT_LT(error({.act_order = true, .correction = Correction::qronos}), 0.98 * plain);
}

TEST(Gptq, CorrectionsChangeLittleWhereInputsAreTheOriginalOnes) {
  const at::Tensor w = gaussian(16, 64, "weight"), x = inputs(400, 64), h = gram(x, x);
  const at::Tensor none = at::zeros({64, 64});
  const QuantizedLinear plain = gptq(w, h, {}, {}, {}, "w").quantized;
  const QuantizedLinear gptaq =
      gptq(w, h, none, {}, {.correction = Correction::gptaq}, "w").quantized;
  EXPECT_EQ(differing_codes(plain, gptaq), 0);
  const double a = output_error(w, x, plain, x);
  const QuantizedLinear qronos =
      gptq(w, h, none, {}, {.correction = Correction::qronos}, "w").quantized;
  EXPECT_NEAR(output_error(w, x, qronos, x), a, 0.1 * a);  // another damping, the same problem
}

TEST(Gptq, DampingGrowsUntilAnIndefiniteHessianCanBeFactorized) {
  const at::Tensor w = gaussian(8, 32, "weight");
  at::Tensor h = at::eye(32);
  h.narrow(0, 0, 2).narrow(1, 0, 2).fill_(1.0);
  h[0][1] = h[1][0] = 3.0;  // eigenvalue −2
  const RoundedLayer result = gptq(w, h, {}, {}, {}, "w");
  EXPECT_GT(result.num_attempts, 1);
  EXPECT_GT(result.damping, 0.01);
  check_quantized(result.quantized, "w");
}

TEST(Gptq, ChannelsThatAreAlwaysZeroGetTheWeightZero) {
  const at::Tensor w = gaussian(8, 32, "weight");
  at::Tensor x = inputs(100, 32);
  x.select(1, 7).zero_();
  const RoundedLayer result = gptq(w, gram(x, x), {}, {}, {}, "w");
  EXPECT_EQ(result.num_dead, 1);
  EXPECT_EQ(result.quantized.codes.select(1, 7).abs().max().item<int64_t>(), 0);
  EXPECT_EQ(gptq(w, at::zeros({32, 32}), {}, {}, {}, "w").num_dead, 32);
}

TEST(Gptq, FewerTokensThanChannelsStillGiveCodes) {
  const at::Tensor w = gaussian(8, 64, "weight"), x = inputs(5, 64);
  check_quantized(gptq(w, gram(x, x), {}, {}, {}, "w").quantized, "w");
}

TEST(Gptq, NumbersThatAreNotFiniteAreNamed) {
  const at::Tensor w = gaussian(8, 32, "weight");
  at::Tensor broken = w.clone(), h = at::eye(32);
  broken[3][4] = std::numeric_limits<float>::quiet_NaN();
  const auto message = [&](const at::Tensor& weight, const at::Tensor& hessian) {
    try {
      gptq(weight, hessian, {}, {}, {}, "model.layers.2.mlp.down_proj.weight");
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message(broken, h).find("model.layers.2.mlp.down_proj.weight"), std::string::npos);
  h[1][1] = std::numeric_limits<float>::infinity();
  EXPECT_NE(message(w, h).find("calibration"), std::string::npos);
}

}  // namespace
}  // namespace osp
