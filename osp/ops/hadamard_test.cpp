#include "osp/ops/hadamard.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"

namespace osp {
namespace {

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

TEST(Hadamard, EqualsItsTwinForEveryKindOfSize) {
  for (const int64_t size : {1, 2, 4, 8, 12, 20, 32, 36, 40, 56, 64, 128, 156, 172, 256, 768}) {
    for (const bool transposed : {false, true}) {
      const HadamardOptions options{.transposed = transposed};
      const at::Tensor x = gaussian(9, size, "x");
      // Fewer than 20 roundings of numbers of size about sqrt(n) · 3 before the division.
      EXPECT_LT(largest_difference(hadamard_transform(x, options),
                                   hadamard_transform_reference(x, options)),
                4e-6)
          << size;
      const at::Tensor wide = x.to(at::kDouble);
      EXPECT_LT(largest_difference(hadamard_transform(wide, options),
                                   hadamard_transform_reference(wide, options)),
                1e-14)
          << size;  // the same in fp64
    }
  }
}

TEST(Hadamard, TransposedIsTheInverseAndTheNormIsKept) {
  for (const int64_t size : {12, 64, 172, 768}) {
    const at::Tensor x = gaussian(50, size, "x").to(at::kDouble);
    const at::Tensor y = hadamard_transform(x);
    EXPECT_LT(largest_difference(hadamard_transform(y, {.transposed = true}), x), 1e-14) << size;
    const at::Tensor ratio = y.square().sum(-1).div(x.square().sum(-1));
    EXPECT_LT(ratio.sub(1.0).abs().max().item<double>(), 1e-14) << size;
  }
}

TEST(Hadamard, BlocksAreTransformedEachByItself) {
  const at::Tensor x = gaussian(7, 96, "x");
  const at::Tensor y = hadamard_transform(x, {.block = 24});
  for (int64_t begin = 0; begin < 96; begin += 24) {
    EXPECT_TRUE(y.narrow(1, begin, 24).equal(hadamard_transform(x.narrow(1, begin, 24))));
  }
}

TEST(Hadamard, SpreadsOneOutlierOverAllChannels) {
  at::Tensor x = at::zeros({1, 64}, at::kFloat);
  x.select(1, 5).fill_(80.0);
  EXPECT_TRUE(hadamard_transform(x).abs().eq(10.0).all().item<bool>());
}

TEST(Hadamard, StridedInputGivesTheSameAsAContiguousOneAndIsNotChanged) {
  const at::Tensor x = gaussian(64, 8 * 16, "x").view({2, 32, 8, 16}).transpose(1, 2);
  EXPECT_TRUE(hadamard_transform(x).equal(hadamard_transform(x.contiguous())));
  const at::Tensor rows = gaussian(4, 16, "x"), copy = rows.clone();
  hadamard_transform(rows);
  EXPECT_TRUE(rows.equal(copy));
}

TEST(Hadamard, GradientIsTheTransposedTransform) {
  for (const int64_t size : {12, 16}) {
    const at::Tensor x = gaussian(5, size, "x").requires_grad_(true),
                     weight = gaussian(5, size, "x").add(1);
    hadamard_transform(x, {.block = size}).mul(weight).sum().backward();
    EXPECT_LT(largest_difference(x.grad(), hadamard_transform(weight, {.transposed = true})),
              1e-6);  // the same operations but for the product's order
  }
}

TEST(Hadamard, HalfPrecisionIsTransformedInFp32AndRoundedOnce) {
  const at::Tensor x = gaussian(5, 64, "x").to(at::kBFloat16);
  const at::Tensor y = hadamard_transform(x);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(y.equal(hadamard_transform(x.to(at::kFloat)).to(at::kBFloat16)));
}

}  // namespace
}  // namespace osp
