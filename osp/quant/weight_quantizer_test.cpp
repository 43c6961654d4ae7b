#include "osp/quant/weight_quantizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

double error(const at::Tensor& w, const WeightGrid& grid) {
  return round_to_nearest(w, grid, "w").dequantized().sub(w).square().mean().item<double>();
}

TEST(WeightQuantizer, PerChannelIsTheGridOfFakeQuantization) {
  const at::Tensor w = gaussian(12, 64, "weight");
  for (int64_t bits = 2; bits <= 8; ++bits) {
    const QuantizedLinear q = round_to_nearest(w, {.bits = bits}, "w");
    EXPECT_TRUE(q.dequantized().equal(fake_quantize_symmetric(w, bits, true))) << bits;
    check_quantized(q, "w");
  }
}

TEST(WeightQuantizer, AGroupIsARowOfItsOwn) {
  const at::Tensor w = gaussian(6, 96, "weight");
  for (const bool symmetric : {true, false}) {
    const WeightGrid grid{.bits = 4, .group = 32, .symmetric = symmetric};
    const QuantizedLinear whole = round_to_nearest(w, grid, "w");
    EXPECT_EQ(whole.groups(), 3);
    for (int64_t g = 0; g < 3; ++g) {
      const WeightGrid channel{.bits = 4, .symmetric = symmetric};
      const QuantizedLinear part =
          round_to_nearest(w.narrow(1, 32 * g, 32).contiguous(), channel, "w");
      EXPECT_TRUE(whole.codes.narrow(1, 32 * g, 32).equal(part.codes));
      EXPECT_TRUE(whole.scale.select(1, g).equal(part.scale.select(1, 0)));
    }
    check_quantized(whole, "w");
  }
}

TEST(WeightQuantizer, AsymmetricCodesAreThoseOfTheFormula) {
  // Range [−1, 2] at 2 bits: scale 1, zero 1 of 0 … 3, stored from −2.
  const at::Tensor w = at::tensor({-1.0f, 2.0f, 0.6f, 1.4f}).view({1, 4});
  const QuantizedLinear q =
      round_to_nearest(w, {.bits = 2, .symmetric = false, .clipping_search = false}, "w");
  EXPECT_EQ(q.scale.item<float>(), 1.0f);
  EXPECT_EQ(q.zero.item<int64_t>(), -1);
  EXPECT_TRUE(q.codes.to(at::kFloat).flatten().equal(at::tensor({-2.0f, 1.0f, 0.0f, 0.0f})));
  EXPECT_TRUE(q.dequantized().flatten().equal(at::tensor({-1.0f, 2.0f, 1.0f, 1.0f})));
}

TEST(WeightQuantizer, FinerGridsHaveSmallerErrors) {
  const at::Tensor w = gaussian(16, 128, "weight").add_(0.5);
  EXPECT_LT(error(w, {.bits = 5}), error(w, {.bits = 4}));
  EXPECT_LT(error(w, {.group = 32}), error(w, {.group = 0}));
  EXPECT_LT(error(w, {.symmetric = false}), error(w, {.symmetric = true}));  // shifted weights
  for (const bool symmetric : {true, false}) {
    EXPECT_LT(error(w, {.symmetric = symmetric, .clipping_search = true}),
              error(w, {.symmetric = symmetric, .clipping_search = false}));
  }
}

TEST(WeightQuantizer, Fp16ScalesAreFp16NumbersUnlessThatWouldLoseTinyWeights) {
  for (const double deviation : {1.0, 1e-9}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t bits : {4, 8}) {
        const at::Tensor w = gaussian(8, 64, "weight", deviation);
        const QuantizedLinear q =
            round_to_nearest(w, {.bits = bits, .symmetric = symmetric, .fp16_scales = true}, "w");
        EXPECT_EQ(q.scale.equal(q.scale.to(at::kHalf).to(at::kFloat)), deviation == 1.0);
        EXPECT_GT(signal_to_noise_db(w, q.dequantized()), 15.0);
        check_quantized(q, "w");
      }
    }
  }
}

TEST(WeightQuantizer, WeightsOfZeroStayZero) {
  for (const bool symmetric : {true, false}) {
    const QuantizedLinear q = round_to_nearest(at::zeros({3, 32}), {.symmetric = symmetric}, "w");
    EXPECT_EQ(q.dequantized().abs().max().item<float>(), 0.0f);
    EXPECT_TRUE(std::isfinite(q.scale.max().item<float>()));
  }
}

TEST(WeightQuantizer, BadRequestsNameTheWeight) {
  const auto message = [](const at::Tensor& w, const WeightGrid& grid) {
    try {
      round_to_nearest(w, grid, "layer 3 q_proj");
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(message(gaussian(2, 100, "weight"), {.group = 32})
                .find("layer 3 q_proj: groups of 32 do not"),
            std::string::npos);
  at::Tensor w = gaussian(2, 32, "weight");
  EXPECT_NE(message(w.mul(1e8), {.fp16_scales = true}).find("fp16"), std::string::npos);
  w[1][1] = std::numeric_limits<float>::infinity();
  EXPECT_NE(message(w, {}).find("NaN or infinite"), std::string::npos);
}

TEST(WeightQuantizer, AFactorThatMovesBetweenLayersChangesNoCode) {
  const at::Tensor w = gaussian(8, 64, "weight");
  for (const WeightGrid& grid :
       {WeightGrid{}, WeightGrid{.bits = 3, .group = 32, .clipping_search = false},
        WeightGrid{.bits = 4, .group = 32, .symmetric = false},
        WeightGrid{.bits = 8, .symmetric = false, .clipping_search = false}}) {
    const QuantizedLinear plain = round_to_nearest(w, grid, "w");
    for (const int power : {-30, -20, 20}) {
      const double factor = std::ldexp(1.0, power);
      const QuantizedLinear moved = round_to_nearest(w.mul(factor), grid, "w");
      EXPECT_TRUE(moved.codes.equal(plain.codes)) << power;
      EXPECT_TRUE(moved.scale.equal(plain.scale.mul(factor))) << power;
    }
  }
  // fp16 has no number for the scale: it stays, and no weight is lost.
  const QuantizedLinear small = round_to_nearest(w.mul(1e-9), {.fp16_scales = true}, "w");
  EXPECT_LT(small.dequantized().sub(w.mul(1e-9)).abs().max().item<double>(), 1e-9);
  // Rows of zeros keep a scale that every format holds.
  const QuantizedLinear zeros = round_to_nearest(w.mul(0.0), {.fp16_scales = true}, "w");
  EXPECT_GT(zeros.scale.min().item<float>(), 0x1p-24f);
}

// Every p of a block by itself, in plain loops.
at::Tensor best_of_all_scales(const at::Tensor& w, const WeightGrid& plain) {
  const QuantizedLinear whole = round_to_nearest(w, plain, "w");
  const float largest = w.abs().max().item<float>();
  at::Tensor best = whole.dequantized();
  const int64_t block = plain.group == 0 ? w.size(1) : plain.group;
  const auto error_of = [](const at::Tensor& a, const at::Tensor& b) {
    return a.sub(b).to(at::kDouble).abs().pow(2.4).sum().item<double>();
  };
  for (int64_t row = 0; row < w.size(0); ++row) {
    for (int64_t begin = 0; begin < w.size(1); begin += block) {
      const at::Tensor x = w.narrow(0, row, 1).narrow(1, begin, block);
      at::Tensor out = best.narrow(0, row, 1).narrow(1, begin, block);
      for (int i = 1; i < 80; ++i) {
        WeightGrid shrunk = plain;
        shrunk.shared_largest = largest;
        const GridParameters grid = find_grid(x.mul(1.0 - i / 100.0), shrunk, "w");
        const at::Tensor now = nearest_codes(x, grid, plain).dequantized();
        if (error_of(now, x) < error_of(out, x)) out.copy_(now);
      }
    }
  }
  return best;
}

TEST(WeightQuantizer, ScalesOfFloatsAreThoseOfTheLeastErrorInEachBlock) {
  const at::Tensor w = gaussian(6, 64, "weight").pow(3);  // heavy tails, which clipping helps
  w[2].mul_(1e-3);
  w[3].zero_();
  // The scale that holds 1.76 loses the others, the next smaller one holds them exactly.
  w[4].fill_(0.125);
  for (const int64_t i : {0, 32}) w[4][i] = 1.76;
  for (const NumberKind kind : {NumberKind::mxfp4, NumberKind::nvfp4, NumberKind::fp8}) {
    const WeightGrid plain = float_weight_grid(kind);
    WeightGrid searched = plain;
    searched.clipping_search = true;
    const QuantizedLinear q = round_to_nearest(w, searched, "w");
    EXPECT_TRUE(q.dequantized().equal(best_of_all_scales(w, plain))) << number_kind_name(kind);
    const auto error_of = [&](const WeightGrid& grid) {
      const at::Tensor difference = round_to_nearest(w, grid, "w").dequantized().sub(w);
      return difference.to(at::kDouble).abs().pow(2.4).sum().item<double>();
    };
    EXPECT_LT(error_of(searched), error_of(plain)) << number_kind_name(kind);
    // NVFP4's constant stays that of the largest weight.
    if (q.global.defined()) {
      EXPECT_TRUE(q.global.equal(round_to_nearest(w, plain, "w").global));
    }
    check_quantized(q, "w");
  }
}

TEST(WeightQuantizer, SignalToNoiseIsInDecibels) {
  const at::Tensor w = at::tensor({10.0f, 0.0f});
  EXPECT_NEAR(signal_to_noise_db(w, at::tensor({9.0f, 0.0f})), 20.0, 1e-12);  // 100 to 1
  EXPECT_TRUE(std::isinf(signal_to_noise_db(w, w)));
}

}  // namespace
}  // namespace osp
