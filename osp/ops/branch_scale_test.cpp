#include "osp/ops/branch_scale.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/philox.h"

namespace osp {
namespace {

at::Tensor random_branch(const char* name) {
  at::Tensor x = at::empty({3, 500, 64}, at::kFloat);
  RandomStream(1, name).fill_normal({x.data_ptr<float>(), size_t(x.numel())}, 0.0, 1.0);
  return x;
}

TEST(BranchScale, ScaleIsNotRoundedToBf16AndEachProductIsRoundedOnce) {
  const at::Tensor x = random_branch("x").to(at::kBFloat16);
  const at::Tensor scale = at::full({1}, 0.3f);  // 0.30078125 in bf16
  const at::Tensor y = scale_branch(x, {scale, {}});
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(y, (x.to(at::kFloat) * scale).to(at::kBFloat16)));
}

TEST(BranchScale, GradientsAreThoseOfAProductAndAddUp) {
  const at::Tensor x = random_branch("x").requires_grad_(true), dy = random_branch("dy");
  const at::Tensor scale = at::full({1}, 0.3f), gradient = at::full({1}, 2.0f);
  scale_branch(x, {scale, gradient}).backward(dy);
  EXPECT_TRUE(at::equal(x.grad(), dy * scale));
  const double expected = (dy.to(at::kDouble) * x.detach()).sum().item<double>();
  // A sum of 96,000 products of both signs, each about 1, in fp32.
  EXPECT_NEAR(gradient.item<double>() - 2.0, expected, 1e-2);
  EXPECT_GT(std::abs(expected), 1.0);
}

TEST(BranchScale, GradientHasTheSameBitsWithAnyNumberOfThreads) {
  const int threads = at::get_num_threads();
  at::Tensor first;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    const at::Tensor x = random_branch("x").requires_grad_(true), gradient = at::zeros({1});
    scale_branch(x, {at::full({1}, 0.3f), gradient}).backward(random_branch("dy"));
    if (!first.defined()) first = gradient;
    EXPECT_TRUE(at::equal(gradient, first)) << count;
  }
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace osp
