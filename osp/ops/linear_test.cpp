// Linear layers: gradients over micro-batches, and inputs that are recomputed.
#include "osp/ops/linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include "osp/ops/isa.h"
#include "osp/ops/rms_norm.h"
#include "osp/ops/swiglu.h"
#include "osp/ops/test_operators.h"

namespace osp {
namespace {

TEST(Linear, AccumulatesWeightGradientsOverMicroBatches) {
  at::manual_seed(5);
  const at::Tensor w = at::randn({24, 16}), x = at::randn({30, 16}).requires_grad_(true);
  const WeightRef ref{w, at::zeros({24, 16})};
  const at::Tensor dy = at::randn({30, 24});
  for (int half = 0; half < 2; ++half) {
    const at::Tensor part = x.detach().narrow(0, half * 15, 15).requires_grad_(true);
    gradients(linear(part, ref), dy.narrow(0, half * 15, 15), {part});
  }
  EXPECT_LT(relative_error(ref.gradient, dy.t().matmul(x)), 2e-6);
}

TEST(Linear, TheFastProductIsAsExactAsThePlainOne) {
  at::manual_seed(6);
  for (const auto& [rows, in, out] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 16, 24}, {127, 100, 33}, {128, 100, 33}, {300, 576, 960}, {257, 1536, 64}}) {
    const at::Tensor x = at::randn({rows, in + 5}).narrow(1, 3, in), w = at::randn({out, in});
    const at::Tensor exact = at::matmul(x.to(at::kDouble), w.to(at::kDouble).t());
    const double plain = relative_error(linear(x, {w}), exact);
    // Four times: sums of the same fp32 products in one chain, not in blocks.
    EXPECT_LT(relative_error(fast_linear(x, w), exact), 4 * plain) << rows << " rows";
    EXPECT_LT(relative_error(fast_linear(x.unsqueeze(0), w)[0], exact), 4 * plain);
  }
  const at::Tensor x = at::randn({200, 30}).to(at::kBFloat16), w = at::randn({9, 30}).to(x.dtype());
  EXPECT_TRUE(at::equal(fast_linear(x, w), linear(x, {w})));
  const at::Tensor wide = at::randn({200, 30}, at::kDouble), v = at::randn({9, 30}, at::kDouble);
  EXPECT_TRUE(at::equal(fast_linear(wide, v), linear(wide, {v})));
}

// Each kind of input that is not kept, made of random operands.
std::vector<std::pair<const char*, std::function<RecomputableInput(const at::Tensor&)>>>
made_inputs(at::ScalarType type, int64_t channels) {
  const at::Tensor branch = at::randn({9, channels}).to(type);
  const WeightRef one{at::randn({1}) + 2, at::zeros({1})};
  const WeightRef each{at::randn({channels}), at::zeros({channels})};
  const auto norm = [](WeightRef gain) {
    return [gain](const at::Tensor& x) { return rms_norm(x, gain, 1e-5); };
  };
  return {{"Simple RMSNorm", norm({})},
          {"SSNorm", norm(one)},
          {"RMSNorm", norm(each)},
          {"sum and RMSNorm",
           [=](const at::Tensor& x) { return std::get<1>(add_rms_norm(x, branch, each, 1e-5)); }},
          {"SwiGLU", [](const at::Tensor& x) {
             return swiglu(at::cat({x, x * 0.5}, -1));
           }}};
}

TEST(Linear, MakesItsInputAgainToTheSameBits) {
  if (active_isa() == Isa::reference) {
    GTEST_SKIP() << "OSP_ISA=reference: without kernels linear keeps its input";
  }
  at::manual_seed(12);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t channels : {1, 40, 129}) {
      const at::Tensor x = at::randn({9, channels}).to(type).requires_grad_(true);
      const at::Tensor w = at::randn({7, channels}).to(type), dy = at::randn({9, 7}).to(type);
      for (const auto& [name, make] : made_inputs(type, channels)) {
        const WeightRef kept{w, at::zeros({7, channels})}, again{w, at::zeros({7, channels})};
        const RecomputableInput input = make(x);
        ASSERT_NE(input.origin, RecomputableInput::Origin::none) << name;
        const at::Tensor y = linear(input, again);
        // Nobody else holds the input, so it is gone with `input`.
        EXPECT_EQ(input.value.use_count(), 1u) << name;
        const at::Tensor dx = gradients(y, dy, {x})[0];
        const RecomputableInput same = make(x);
        const at::Tensor expected_y = linear(same.value, kept);
        EXPECT_GT(same.value.use_count(), 1u) << name;
        EXPECT_TRUE(y.equal(expected_y)) << name << " " << channels;
        EXPECT_TRUE(dx.equal(gradients(expected_y, dy, {x})[0])) << name << " " << channels;
        EXPECT_TRUE(again.gradient.equal(kept.gradient)) << name << " " << channels;
        EXPECT_GT(again.gradient.abs().max().item<float>(), 0) << name;
      }
    }
  }
}

TEST(Linear, TwoLayersMayReadOneInput) {
  at::manual_seed(13);
  const at::Tensor x = at::randn({9, 24}).requires_grad_(true), dy = at::randn({9, 7});
  const WeightRef first{at::randn({7, 24}), {}}, second{at::randn({7, 24}), {}};
  for (const auto& [name, make] : made_inputs(at::kFloat, 24)) {
    const RecomputableInput input = make(x), same = make(x);
    const auto dx = gradients(linear(input, first) + linear(input, second), dy, {x});
    const auto expected =
        gradients(linear(same.value, first) + linear(same.value, second), dy, {x});
    // Sums of two gradients in another order.
    EXPECT_LT(relative_error(dx[0], expected[0]), 1e-6) << name;
  }
}

TEST(Linear, TakesNoTokens) {
  const WeightRef weight{at::randn({7, 40}), at::zeros({7, 40})};
  const WeightRef gain{at::ones({1}), at::zeros({1})};
  const at::Tensor x = at::zeros({0, 40}).requires_grad_(true);
  const at::Tensor y = linear(rms_norm(x, gain, 1e-5), weight);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({0, 7}));
  EXPECT_EQ(gradients(y, at::zeros({0, 7}), {x})[0].sizes(), x.sizes());
  EXPECT_EQ(weight.gradient.abs().max().item<float>(), 0);
}

}  // namespace
}  // namespace osp
