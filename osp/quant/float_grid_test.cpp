// compressed-tensors is the oracle in tests/python/test_float_formats.py; here are the naive twin
// and what the layer of a folder holds.
#include "osp/quant/float_grid.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/test_tensors.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {
namespace {

constexpr std::array kKinds = {NumberKind::mxfp4, NumberKind::nvfp4, NumberKind::fp8};

// Rows of very different sizes, one of zeros, one with an outlier.
at::Tensor numbers(int64_t rows, int64_t columns) {
  at::Tensor x = gaussian(rows, columns, "numbers");
  for (int64_t i = 0; i < rows; ++i) x[i].mul_(std::ldexp(1.0, static_cast<int>(12 * i) - 60));
  x[1].zero_();
  x[2][5].mul_(300.0);
  return x;
}

TEST(FloatGrid, KernelsEqualTheNaiveTwin) {
  const at::Tensor x = numbers(12, 96);
  for (const NumberKind kind : kKinds) {
    const at::Tensor found = fake_quantize_float(x, kind);
    at::Tensor wanted = x.clone();
    for (int64_t i = 0; i < x.size(0); ++i) {
      fake_quantize_float_reference({wanted.data_ptr<float>() + i * 96, 96}, kind);
    }
    EXPECT_TRUE(found.equal(wanted)) << number_kind_name(kind);
    // Powers of two as scales: rounding again changes nothing.
    if (kind == NumberKind::mxfp4) {
      EXPECT_TRUE(fake_quantize_float(found, kind).equal(found));
    }
  }
}

TEST(FloatGrid, CodesAreThoseOfTheFormatsAndComeBack) {
  const at::Tensor all = at::arange(16, at::kChar);
  const at::Tensor values = values_of_codes(all, NumberKind::nvfp4);
  const std::array<float, 8> wanted = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  for (int64_t i = 0; i < 16; ++i) {
    const float value = values[i].item<float>();
    EXPECT_EQ(std::fabs(value), wanted[static_cast<size_t>(i % 8)]);
    EXPECT_EQ(std::signbit(value), i >= 8);
  }
  EXPECT_TRUE(codes_of_values(values, NumberKind::mxfp4).equal(all));
  const at::Tensor bytes = at::arange(-128, 128, at::kInt).to(at::kChar);
  const at::Tensor e4m3 = values_of_codes(bytes, NumberKind::fp8);
  EXPECT_EQ(e4m3.nan_to_num(0.0).max().item<float>(), 448.0f);
  EXPECT_EQ(at::isfinite(e4m3).sum().item<int64_t>(), 254);  // two NaN and no infinity
  const at::Tensor finite = at::isfinite(e4m3);
  EXPECT_TRUE(codes_of_values(e4m3, NumberKind::fp8)
                  .masked_select(finite)
                  .equal(bytes.masked_select(finite)));
  for (int64_t i = 0; i < 256; ++i) {
    const float value = e4m3[i].item<float>();
    if (std::isfinite(value)) {
      EXPECT_EQ(round_to_e4m3_reference(value), value);
    }
  }
}

TEST(FloatGrid, ScalesOfE8m0ArePowersOfTwoAndComeBack) {
  const at::Tensor bytes = at::arange(256, at::kInt).to(at::kByte);
  const at::Tensor scale = scales_of_e8m0(bytes);
  for (int64_t i = 0; i < 255; ++i) {
    EXPECT_EQ(scale[i].item<float>(), std::ldexp(1.0f, static_cast<int>(i) - 127));
  }
  EXPECT_FALSE(std::isfinite(scale[255].item<float>()));
  EXPECT_TRUE(e8m0_of_scales(scale).equal(bytes));
}

TEST(FloatGrid, AConstantTakesThePlaceOfTheRowsOwn) {
  const at::Tensor x = gaussian(4, 64, "numbers");
  const float absmax = x.abs().max().item<float>();
  for (const NumberKind kind : {NumberKind::nvfp4, NumberKind::fp8}) {
    const at::Tensor together = fake_quantize_float(x, kind, float_constant(absmax, kind));
    EXPECT_FALSE(together.equal(fake_quantize_float(x, kind)));
    const at::Tensor largest = x.index_select(0, x.abs().amax(1).argmax().view({1}));
    EXPECT_TRUE(fake_quantize_float(largest, kind, float_constant(absmax, kind))
                    .equal(fake_quantize_float(largest, kind)));
  }
}

TEST(FloatGrid, ALayerOfFourBitsHoldsBf16Numbers) {
  const at::Tensor w = gaussian(24, 96, "weight");
  for (const NumberKind kind : kKinds) {
    const QuantizedLinear q = round_to_nearest(w, float_weight_grid(kind), "w");
    check_quantized(q, "w");
    EXPECT_EQ(q.kind, kind);
    EXPECT_EQ(q.groups(), kind == NumberKind::fp8 ? 1 : 96 / block_size(kind));
    EXPECT_EQ(q.global.defined(), kind == NumberKind::nvfp4);
    const at::Tensor values = q.dequantized();
    const bool in_bf16 = values.to(at::kBFloat16).to(at::kFloat).equal(values);
    EXPECT_EQ(in_bf16, kind != NumberKind::fp8);
    // About 20 dB for four bits of a Gaussian, 31 for E4M3.
    const double wanted = kind == NumberKind::fp8 ? 31.0 : 19.0;
    EXPECT_NEAR(signal_to_noise_db(w, values), wanted, 2.0) << number_kind_name(kind);
  }
}

TEST(FloatGrid, WeightsBeyondTheFormatAreRefused) {
  at::Tensor w = gaussian(2, 64, "weight");
  w[1][3] = 3.3e38;
  for (const NumberKind kind : {NumberKind::mxfp4, NumberKind::nvfp4}) {
    try {
      round_to_nearest(w, float_weight_grid(kind), "layer");
      EXPECT_NE(kind, NumberKind::mxfp4);
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("are beyond the scales of mxfp4"),
                std::string::npos);
    }
  }
  w[1][3] = std::nanf("");
  for (const NumberKind kind : kKinds) {
    EXPECT_THROW(round_to_nearest(w, float_weight_grid(kind), "layer"), Error);
  }
}

}  // namespace
}  // namespace osp
