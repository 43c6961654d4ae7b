// The cross-entropy of the head: the reference twin, skipped targets, values that are not finite.
#include "osp/ops/cross_entropy.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "osp/ops/test_operators.h"

namespace osp {
namespace {

TEST(LinearCrossEntropy, EqualsItsReferenceAndSkipsNegativeTargets) {
  at::manual_seed(6);
  // 700 rows of 20,011 logits: several chunks, an odd vocabulary.
  const at::Tensor w = at::randn({20011, 16}).requires_grad_(true);
  const at::Tensor h = at::randn({700, 16}).requires_grad_(true);
  at::Tensor targets = at::randint(0, 20011, {700}, at::kLong);
  targets.narrow(0, 100, 50).fill_(-1);
  const at::Tensor reference = linear_cross_entropy_reference(h, w, targets);
  const auto expected = gradients(reference, at::ones({}), {h, w});
  const WeightRef ref{w.detach(), at::zeros({20011, 16})};
  const at::Tensor loss = linear_cross_entropy(h, ref, targets, 0.5, true);
  EXPECT_LT(relative_error(loss, reference), 1e-6);
  const auto dh = gradients(loss, at::ones({}), {h});
  EXPECT_LT(relative_error(dh[0] * 2, expected[0]), 1e-5);
  EXPECT_LT(relative_error(ref.gradient * 2, expected[1]), 1e-5);
}

// fp64 has no kernels: it takes the path of every device without them.
TEST(LinearCrossEntropy, WithoutKernelsFillsTheSameGradients) {
  at::manual_seed(5);
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor h = at::randn({7, 16}, wide).requires_grad_();
  const at::Tensor w = at::randn({50, 16}, wide).requires_grad_();
  const at::Tensor targets = at::tensor(std::vector<int64_t>{3, -1, 49, 0, 7, 3, -1});
  const at::Tensor reference = linear_cross_entropy_reference(h, w, targets);
  const auto expected = gradients(reference, at::ones({}, wide), {h, w});
  const WeightRef head{w.detach(), at::zeros({50, 16}, wide)};
  const at::Tensor loss = linear_cross_entropy(h, head, targets, 0.5, true);
  EXPECT_LT(relative_error(loss, reference), 1e-6);  // reported in fp32
  EXPECT_LT(relative_error(gradients(loss, at::ones({}), {h})[0] * 2, expected[0]), 1e-12);
  EXPECT_LT(relative_error(head.gradient * 2, expected[1]), 1e-12);
}

TEST(LinearCrossEntropy, LetsNonFiniteValuesThrough) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      at::Tensor h = at::ones({2, 4}).to(type);
      h[1][2] = bad;
      const at::Tensor w = at::ones({50, 4}).to(type), targets = at::zeros({2}, at::kLong);
      const float loss = linear_cross_entropy(h, {w, {}}, targets, 1.0, false).item<float>();
      EXPECT_FALSE(std::isfinite(loss)) << bad;
    }
  }
}

}  // namespace
}  // namespace osp
