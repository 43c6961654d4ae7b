// RMSNorm and its relatives: the reference twin, finite differences, gradients of gains.
#include "osp/ops/rms_norm.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "osp/ops/test_operators.h"

namespace osp {
namespace {

std::vector<OperatorCase> norm_cases() {
  return {
      {"rms_norm without gain",
       [](const auto& x) { return rms_norm(x[0], {}, 1e-5).value; },
       [](const auto& x) { return rms_norm_reference(x[0], {}, 1e-5); },
       {{3, 7, 48}}},
      {"add_rms_norm",
       [](const auto& x) {
         const auto [r, y] = add_rms_norm(x[0], x[1], {}, 1e-5);
         return at::cat({r, y.value}, -1);
       },
       [](const auto& x) {
         const at::Tensor r = x[0] + x[1];
         return at::cat({r, rms_norm_reference(r, {}, 1e-5)}, -1);
       },
       {{300, 33}, {300, 33}}},
  };
}

TEST(RmsNorm, EqualsItsReferenceTwin) {
  for (const OperatorCase& c : norm_cases()) expect_equals_twin(c);
}

TEST(RmsNorm, InBf16StaysWithinItsRounding) {
  for (const OperatorCase& c : norm_cases()) expect_within_bf16_rounding(c);
}

TEST(RmsNorm, GradientsEqualFiniteDifferences) {
  for (const OperatorCase& c : norm_cases()) expect_gradients_of_differences(c);
}

TEST(RmsNorm, AddsGainGradientsInFp32) {
  at::manual_seed(4);
  for (const int64_t gains : {int64_t{1}, int64_t{40}}) {
    const at::Tensor x = at::randn({500, 40}).requires_grad_(true);
    const at::Tensor gain = (at::randn({gains}) + 1).requires_grad_(true);
    const at::Tensor dy = at::randn({500, 40});
    const auto expected = gradients(rms_norm_reference(x, gain, 1e-5), dy, {x, gain});
    const WeightRef ref{gain.detach(), at::ones({gains})};
    const auto dx = gradients(rms_norm(x, ref, 1e-5).value, dy, {x});
    EXPECT_LT(relative_error(dx[0], expected[0]), 1e-5);
    // 20,000 products summed in blocks; the ones that were there before must remain.
    EXPECT_LT(relative_error(ref.gradient - 1, expected[1]), 2e-5) << gains;
  }
}

// fp64 has no kernels: it takes the path of every device without them.
TEST(RmsNorm, WithoutKernelsFillsTheSameGradients) {
  at::manual_seed(5);
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor h = at::randn({7, 16}, wide);
  for (const int64_t gains : {1, 16}) {
    const at::Tensor value = at::randn({gains}, wide).requires_grad_();
    const at::Tensor dy = at::randn({7, 16}, wide);
    const auto of_gain = gradients(rms_norm_reference(h + 1, value, 1e-5), dy, {value})[0];
    const WeightRef gain{value.detach(), at::zeros({gains}, wide)};
    const at::Tensor x = (h + 1).requires_grad_();
    gradients(rms_norm(x, gain, 1e-5).value, dy, {x});
    EXPECT_LT(relative_error(gain.gradient, of_gain), 1e-12) << gains;
    gradients(std::get<1>(add_rms_norm(x, at::zeros_like(x), gain, 1e-5)).value, dy, {x});
    EXPECT_LT(relative_error(gain.gradient, of_gain * 2), 1e-12) << gains;
  }
}

}  // namespace
}  // namespace osp
