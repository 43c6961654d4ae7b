// Recomputed parts of a graph: the same bits, and gradients that are added once.
#include "osp/ops/recompute.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <limits>

#include "osp/ops/fused.h"

namespace osp {
namespace {

struct Recompute : ::testing::Test {
  at::Tensor x = at::randn({5, 8}).requires_grad_(true);
  at::Tensor z = at::randn({5, 8}).requires_grad_(true);
  WeightRef weight{at::randn({6, 8}), at::zeros({6, 8})};
  int calls = 0;
  TensorFunction function = [this](const std::vector<at::Tensor>& in) {
    ++calls;
    return std::vector<at::Tensor>{in[0].sin() * in[1], linear(in[0] + in[1], weight)};
  };
};

TEST_F(Recompute, GivesTheGradientsOfTheFunctionAndAddsWeightGradientsOnce) {
  const at::Tensor d0 = at::randn({5, 8}), d1 = at::randn({5, 6});
  const auto plain = function({x, z});
  const auto expected = torch::autograd::grad(plain, {x, z}, {d0, d1});
  const at::Tensor expected_weight = weight.gradient.clone();
  weight.gradient.zero_();
  calls = 0;
  const auto again = recomputed({x, z}, function);
  EXPECT_EQ(calls, 1);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(again[i].equal(plain[i]));
  const auto found = torch::autograd::grad(again, {x, z}, {d0, d1});
  EXPECT_EQ(calls, 2);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(found[i].equal(expected[i]));
  EXPECT_TRUE(weight.gradient.equal(expected_weight));
}

TEST_F(Recompute, AnOutputThatNothingNeedsHasNoPartInIt) {
  weight.value.fill_(std::numeric_limits<float>::infinity());  // 0 times it is no number
  const auto expected = torch::autograd::grad({function({x, z})[0].sum()}, {x, z});
  const auto found = torch::autograd::grad({recomputed({x, z}, function)[0].sum()}, {x, z});
  for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(found[i].equal(expected[i]));
  EXPECT_EQ(weight.gradient.abs().max().item<float>(), 0);
}

TEST_F(Recompute, AnInputMayBeAnOutput) {
  const auto out = recomputed({x}, [](const std::vector<at::Tensor>& in) {
    return std::vector<at::Tensor>{in[0], in[0] * 2.0};
  });
  const auto found = torch::autograd::grad({out[0].sum() + out[1].sum()}, {x});
  EXPECT_TRUE(found[0].equal(at::zeros({5, 8}) + 3.0));
}

TEST_F(Recompute, WithoutGradientModeItIsAPlainCall) {
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(recomputed({x, z}, function)[0].requires_grad());
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace osp
