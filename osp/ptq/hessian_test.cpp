#include "osp/ptq/hessian.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/base/philox.h"
#include "osp/ops/test_tensors.h"

namespace osp {
namespace {

// Relative to the diagonal: fp32 sums of some hundred products.
void expect_close(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_LT(a.sub(b).abs().max().item<double>(), 2e-6 * b.abs().max().item<double>());
}

TEST(InputStatistics, HessianIsTheOneProductOverAllTokens) {
  // 400 columns: three blocks, the last one cut.
  const at::Tensor x = gaussian(240, 400, "x").view({4, 60, 400});
  InputStatistics statistics;
  statistics.add(x.narrow(0, 0, 1), {}, 1);
  statistics.add(x.narrow(0, 1, 3), {}, 3);
  const at::Tensor h = statistics.hessian();
  expect_close(h, hessian_reference(x, 4));
  EXPECT_TRUE(h.equal(h.t()));
  EXPECT_FALSE(statistics.difference().defined());
}

TEST(InputStatistics, DifferenceHasTheQuantizedInputsOnTheRight) {
  const at::Tensor x = gaussian(100, 24, "x").view({2, 50, 24}),
                   damaged = x + gaussian(100, 24, "d").view({2, 50, 24});
  InputStatistics statistics;
  for (int64_t i = 0; i < 2; ++i) statistics.add(damaged[i], x[i], 1);
  const at::Tensor a = x.flatten(0, 1).to(at::kDouble), b = damaged.flatten(0, 1).to(at::kDouble);
  expect_close(statistics.difference(), at::mm(a.sub(b).t(), b));  // 2 / N = 1
}

TEST(InputStatistics, OutputErrorIsThatOfTheProducts) {
  const at::Tensor x = gaussian(80, 32, "x").view({1, 80, 32}), w = gaussian(12, 32, "w");
  const at::Tensor q = w.round();
  const double direct =
      at::mm(x[0], w.sub(q).t()).norm().item<double>() / at::mm(x[0], w.t()).norm().item<double>();
  EXPECT_NEAR(relative_output_error(w, q, hessian_reference(x, 1)), direct, 1e-6 * direct);
}

}  // namespace
}  // namespace osp
