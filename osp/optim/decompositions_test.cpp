#include "osp/optim/decompositions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace osp
