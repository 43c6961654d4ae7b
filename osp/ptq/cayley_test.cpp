#include "osp/ptq/cayley.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"
#include "osp/ptq/rotation.h"

namespace osp {
namespace {

at::Tensor orthogonal(int64_t n, const char* name) {
  return std::get<0>(at::linalg_qr(gaussian(n, n, name).to(at::kDouble)));
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

TEST(Cayley, ExactTransformStaysOrthogonal) {
  for (const int64_t n : {2, 5, 32}) {
    const at::Tensor x = orthogonal(n, "x");
    EXPECT_LT(
        orthogonality_error(cayley_step_reference(x, gaussian(n, n, "g").to(at::kDouble), 1.5)),
        1e-13)
        << n;
  }
}

TEST(Cayley, IterationsApproachTheExactTransformAtEveryLength) {
  const at::Tensor start = orthogonal(24, "x"), gradient = gaussian(24, 24, "g").to(at::kDouble);
  double last = 1.0;
  for (const double rate : {1e-2, 1e-3, 1e-4}) {
    at::Tensor x = start.clone();
    cayley_step(x, gradient, rate);
    const double now = distance(x, cayley_step_reference(start, gradient, rate));
    EXPECT_LT(now, 1e-2 * last) << rate;  // the sixth power of the length, at least
    last = std::max(now, 1e-12);
  }
}

TEST(Cayley, ResultIsOrthogonalEvenAtTheLongestStep) {
  at::Tensor x = orthogonal(24, "x");
  for (int step = 0; step < 20; ++step) {
    const CayleyStep done = cayley_step(x, gaussian(24, 24, "g").to(at::kDouble).mul(1e3), 1.5);
    EXPECT_LT(done.length, 1e-2);  // 1 / ‖W‖₁, not the rate
    EXPECT_LT(orthogonality_error(x), kOrthogonalityLimit);
  }
}

TEST(Cayley, IterationsThatEndTooFarAreCorrected) {
  // A turn in one plane: there ‖W‖₁ is the largest angle's, and five iterations err by about 2^−6.
  at::Tensor x = at::eye(8, at::kDouble), gradient = at::zeros({8, 8}, at::kDouble);
  gradient[0][1] = 1e3;
  const CayleyStep step = cayley_step(x, gradient, 1.5);
  EXPECT_TRUE(step.corrected);
  EXPECT_GT(step.error, kOrthogonalityLimit);
  EXPECT_LT(orthogonality_error(x), 1e-12);
}

TEST(Cayley, ZeroGradientMovesNothing) {
  at::Tensor x = orthogonal(8, "x");
  const at::Tensor before = x.clone();
  cayley_step(x, at::zeros({8, 8}, at::kDouble), 1.5);
  EXPECT_LT(distance(x, before), 1e-15);
}

TEST(Cayley, DescentFindsAMatrixThatARotationHides) {
  // min ‖X − T‖² over orthogonal X with T orthogonal of the same determinant as the start.
  at::Tensor target = orthogonal(6, "target");
  at::Tensor x = target.clone();
  cayley_step(x, gaussian(6, 6, "g").to(at::kDouble), 0.2);  // away from it
  const double begin = distance(x, target);
  ASSERT_GT(begin, 0.1);
  for (int step = 0; step < 100; ++step) {
    cayley_step(x, x.sub(target).mul(2.0), cosine_rate(0.3, step, 100));
  }
  EXPECT_LT(distance(x, target), 1e-3 * begin);
}

TEST(Cayley, OrthonormalizedIsTheNearestOrthogonalMatrix) {
  const at::Tensor q = orthogonal(10, "x");
  // Scaling moves it straight away from Q, so Q is the nearest one.
  EXPECT_LT(distance(orthonormalized(q.mul(1.01)), q), 1e-12);
}

TEST(Cayley, RateFallsByAHalfCosine) {
  EXPECT_DOUBLE_EQ(cosine_rate(1.5, 0, 100), 1.5);
  EXPECT_NEAR(cosine_rate(1.5, 50, 100), 0.75, 1e-15);
  EXPECT_LT(cosine_rate(1.5, 99, 100), 1e-3);
}

}  // namespace
}  // namespace osp
