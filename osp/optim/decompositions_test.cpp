#include "osp/optim/decompositions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "osp/optim/test_banks.h"

namespace osp {
namespace {

at::Tensor random_gram(int64_t size, int64_t rank) {
  const at::Tensor x = random_tensor({size, rank}, "gram");
  return at::matmul(x, x.t());
}

TEST(EigenPairs, RebuildTheMatrixWithOrthonormalVectors) {
  for (const int64_t rank : {40, 3}) {
    const at::Tensor x = random_gram(40, rank);
    const auto pairs = eigen_pairs(x);
    ASSERT_TRUE(pairs.has_value());
    const at::Tensor rebuilt = at::matmul(pairs->vectors * pairs->values, pairs->vectors.t());
    // fp32, backward stable: a few units of 6e-8 times the size.
    EXPECT_LT(norm_of(rebuilt - x), 1e-5 * norm_of(x));
    EXPECT_LT(norm_of(at::matmul(pairs->vectors.t(), pairs->vectors) - at::eye(40)), 1e-4);
    EXPECT_TRUE((pairs->values.diff() >= 0).all().item<bool>());
  }
}

TEST(EigenPairs, ThereAreNoneOfWhatIsNotFinite) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    at::Tensor x = random_gram(8, 8);
    x[3][5].fill_(bad);
    EXPECT_FALSE(eigen_pairs(x).has_value());
  }
}

TEST(InverseRoot, ItsFourthPowerIsTheInverse) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor x = random_gram(24, 60).to(type);
    const auto root = inverse_root(x, 4, 0);
    ASSERT_TRUE(root.has_value());
    const at::Tensor square = at::matmul(*root, *root);
    const at::Tensor product = at::matmul(at::matmul(square, square), x);
    // Rounding of the type times the condition of x, about 20.
    EXPECT_LT(norm_of(product - at::eye(24, x.options())), type == at::kFloat ? 1e-3 : 1e-11);
  }
}

TEST(InverseRoot, EigenvaluesThatAreRoundingCountAsAMillionthOfTheLargest) {
  const at::Tensor x = random_gram(16, 2);
  const auto pairs = eigen_pairs(x);
  const auto root = inverse_root(x, 2, 0);
  ASSERT_TRUE(pairs && root);
  const double largest = pairs->values.max().item<double>();
  const double amplified = norm_of(at::matmul(*root, pairs->vectors.select(1, 0)));
  EXPECT_NEAR(amplified * std::sqrt(largest), 1e3, 1) << "(1e-6)^(-1/2); fp32";
}

TEST(InverseRoot, ThereIsNoneOfZeroUnlessEpsMakesOne) {
  EXPECT_FALSE(inverse_root(at::zeros({4, 4}), 4, 0).has_value());
  EXPECT_TRUE(inverse_root(at::zeros({4, 4}), 4, 1e-12).has_value());
}

TEST(DampedInverse, TimesTheDampedMatrixIsTheIdentity) {
  for (const int64_t rank : {40, 3}) {
    const at::Tensor x = random_gram(24, rank);
    const auto inverse = damped_inverse(x, 0.5);
    ASSERT_TRUE(inverse.has_value());
    const at::Tensor product = at::matmul(*inverse, x + at::eye(24) * 0.5);
    // fp32 rounding times a condition of at most 250.
    EXPECT_LT(norm_of(product - at::eye(24)), 1e-3);
  }
}

TEST(DampedInverse, ThereIsNoneOfWhatIsNotPositiveDefiniteOrNotFinite) {
  EXPECT_FALSE(damped_inverse(at::eye(4) * -1, 0.5).has_value());
  EXPECT_FALSE(damped_inverse(at::zeros({4, 4}), 0).has_value());
  EXPECT_FALSE(
      damped_inverse(at::eye(4) * std::numeric_limits<double>::infinity(), 0.5).has_value());
}

}  // namespace
}  // namespace osp
