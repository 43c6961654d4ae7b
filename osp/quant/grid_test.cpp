// Equality with PyTorch, bit for bit, is in tests/python/test_quant.py.
#include "osp/quant/grid.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"

namespace osp {
namespace {

// The twin applied to every group of a row.
at::Tensor asymmetric_twin(const at::Tensor& x, int64_t bits, int64_t group, GroupRange range) {
  at::Tensor result = x.clone();
  for (int64_t begin = 0; begin < x.numel(); begin += group) {
    fake_quantize_asymmetric_reference(
        {result.data_ptr<float>() + begin, static_cast<size_t>(group)}, bits, range);
  }
  return result;
}

at::Tensor symmetric_twin(const at::Tensor& x, int64_t bits, bool search) {
  at::Tensor result = x.clone();
  for (int64_t row = 0; row < x.size(0); ++row) {
    fake_quantize_symmetric_reference(
        {result.data_ptr<float>() + row * x.size(1), static_cast<size_t>(x.size(1))}, bits, search);
  }
  return result;
}

double squared_error(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).square().sum(at::kDouble).item<double>();
}

TEST(Grid, AsymmetricRowHasTheCodesOfTheFormula) {
  // Range [−1, 2] at 2 bits: scale 1, zero 1, codes 0 … 3; halves go to the even whole number.
  const at::Tensor x = at::tensor({-1.0f, 2.0f, 0.5f, 1.5f, -0.5f, 0.0f}).view({1, 6});
  const AsymmetricCodes q = quantize_asymmetric(x, 2, 6, GroupRange::contains_zero);
  EXPECT_EQ(q.scale.item<float>(), 1.0f);
  EXPECT_EQ(q.zero.item<float>(), 1.0f);
  EXPECT_TRUE(q.codes.flatten().equal(at::tensor({0.0f, 3.0f, 1.0f, 3.0f, 1.0f, 1.0f})));
}

TEST(Grid, ClippedRangesAreThoseOfTheTwin) {
  const at::Tensor x = gaussian(20, 64, "x").add(0.5);
  for (const GroupRange range : {GroupRange::contains_zero, GroupRange::free}) {
    at::Tensor wanted = x.clone();
    for (int64_t row = 0; row < 20; ++row) {
      fake_quantize_asymmetric_reference({wanted.data_ptr<float>() + 64 * row, 64}, 4, range, 0.9);
    }
    const at::Tensor found = fake_quantize_asymmetric(x, 4, 64, range, 0.9);
    EXPECT_TRUE(found.equal(wanted));
    EXPECT_LT(found.abs().max().item<double>(), 0.97 * x.abs().max().item<double>());
  }
}

TEST(Grid, OnlyTheFreeRangeLeavesOutZero) {
  const at::Tensor x = at::tensor({10.0f, 11.0f, 12.0f, 13.0f}).view({1, 4});
  EXPECT_TRUE(fake_quantize_asymmetric(x, 2, 4, GroupRange::free).equal(x));
  const AsymmetricCodes with_zero = quantize_asymmetric(x, 2, 4, GroupRange::contains_zero);
  EXPECT_EQ(with_zero.zero.item<float>(), 0.0f);
  EXPECT_EQ(with_zero.scale.item<float>(), 13.0f / 3.0f);
}

TEST(Grid, DegenerateGroupsStayFinite) {
  const at::Tensor zeros = at::zeros({1, 4}, at::kFloat);
  const AsymmetricCodes q = quantize_asymmetric(zeros, 4, 4, GroupRange::contains_zero);
  EXPECT_EQ(q.zero.item<float>(), 7.0f);  // 1 / fp32(2/15) lies just below 7.5
  for (const GroupRange range : {GroupRange::contains_zero, GroupRange::free}) {
    EXPECT_TRUE(fake_quantize_asymmetric(zeros, 4, 4, range).equal(zeros));
    for (const float value : {3.0f, -0.125f, 1e-44f}) {
      const at::Tensor constant = zeros.add(value);
      const at::Tensor result = fake_quantize_asymmetric(constant, 4, 4, range);
      EXPECT_TRUE(result.isfinite().all().item<bool>());
      // The value is an end of the range: within two roundings of it, or lost as a subnormal.
      EXPECT_NEAR(result.flatten()[0].item<float>(), value, 3e-7 * std::abs(value) + 1e-43);
    }
  }
  EXPECT_TRUE(
      fake_quantize_symmetric(at::zeros({2, 4}, at::kFloat), 4, true).eq(0).all().item<bool>());
}

TEST(Grid, AsymmetricEqualsItsTwinBitForBit) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    for (const GroupRange range : {GroupRange::contains_zero, GroupRange::free}) {
      for (const int64_t group : {8, 32, 96}) {
        const at::Tensor x = gaussian(37, 96, "asymmetric").add(0.3);
        EXPECT_TRUE(fake_quantize_asymmetric(x, bits, group, range)
                        .equal(asymmetric_twin(x, bits, group, range)))
            << bits << ' ' << group;
      }
    }
  }
}

TEST(Grid, SymmetricEqualsItsTwinBitForBit) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    for (const bool search : {false, true}) {
      const at::Tensor x = gaussian(19, 130, "symmetric", 0.02);
      EXPECT_TRUE(fake_quantize_symmetric(x, bits, search).equal(symmetric_twin(x, bits, search)))
          << bits << ' ' << search;
    }
  }
}

TEST(Grid, LargeMatrixIsSearchedInBlocksWithTheSameResult) {
  const at::Tensor x = gaussian(300, 1024, "blocks");  // more than one block of rows
  const SymmetricCodes whole = quantize_symmetric(x, 4, true);
  const SymmetricCodes tail = quantize_symmetric(x.narrow(0, 250, 50), 4, true);
  EXPECT_TRUE(whole.scale.narrow(0, 250, 50).equal(tail.scale));
  EXPECT_TRUE(whole.codes.narrow(0, 250, 50).equal(tail.codes));
}

TEST(Grid, ClippingSearchNeverRaisesItsOwnError) {
  const at::Tensor x = gaussian(64, 512, "clip");
  const auto error = [&](bool search) {
    return fake_quantize_symmetric(x, 4, search).sub(x).abs().pow(2.4).sum(-1, false, at::kDouble);
  };
  EXPECT_TRUE(error(true).le(error(false)).all().item<bool>());
  EXPECT_TRUE(error(true).lt(error(false)).any().item<bool>());
}

TEST(Grid, CodesUseTheWholeSignedRangeAndNoMore) {
  const at::Tensor x = gaussian(64, 512, "range");
  for (const int64_t bits : {2, 4, 8}) {
    const double top = std::pow(2.0, bits - 1) - 1;
    const at::Tensor codes = quantize_symmetric(x, bits, true).codes;
    EXPECT_EQ(codes.max().item<double>(), top);
    EXPECT_GE(codes.min().item<double>(), -top - 1);
    EXPECT_TRUE(codes.equal(codes.round()));
    const at::Tensor unsigned_codes = quantize_asymmetric(x, bits, 64, GroupRange::free).codes;
    EXPECT_EQ(unsigned_codes.min().item<double>(), 0.0);
    EXPECT_EQ(unsigned_codes.max().item<double>(), 2 * top + 1);
  }
}

TEST(Grid, FewerBitsDoMoreDamage) {
  const at::Tensor x = gaussian(64, 512, "monotone");
  double weight_error = 0.0, activation_error = 0.0;
  for (int64_t bits = 8; bits >= 2; --bits) {
    const double weight = squared_error(fake_quantize_symmetric(x, bits, true), x);
    const double activation =
        squared_error(fake_quantize_asymmetric(x, bits, 512, GroupRange::contains_zero), x);
    EXPECT_GT(weight, 2 * weight_error) << bits;  // a halved grid quadruples it where nothing clips
    EXPECT_GT(activation, 3 * activation_error) << bits;
    weight_error = weight;
    activation_error = activation;
  }
}

TEST(Grid, TypeAndShapeAreThoseOfTheInput) {
  const at::Tensor x = gaussian(6, 32, "type").view({2, 3, 32}).to(at::kBFloat16);
  const at::Tensor q = fake_quantize_asymmetric(x, 4, 16, GroupRange::free);
  EXPECT_EQ(q.scalar_type(), at::kBFloat16);
  EXPECT_EQ(q.sizes(), x.sizes());
}

}  // namespace
}  // namespace osp
