// For tests only: checks that every fused operator must pass, on a list of its cases.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

namespace osp {

using Operator = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// One operator with its twin and the shapes of its differentiable inputs.
struct OperatorCase {
  const char* name;
  Operator fast, reference;
  std::vector<std::vector<int64_t>> shapes;
};

// Token ids [2, 6] below 5, some of them repeated.
inline at::Tensor some_ids() { return at::arange(12).remainder(5).view({2, 6}); }

// Largest |a − b| over the largest |b|.
inline double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return ((x - y).abs().max() / y.abs().max().clamp_min(1e-30)).item<double>();
}

inline std::vector<at::Tensor> gradients(const at::Tensor& y, const at::Tensor& dy,
                                         const std::vector<at::Tensor>& inputs) {
  return torch::autograd::grad({y}, inputs, {dy});
}

inline std::vector<at::Tensor> random_inputs(const OperatorCase& c, at::ScalarType type) {
  std::vector<at::Tensor> inputs;
  for (const auto& shape : c.shapes) {
    inputs.push_back(at::randn(shape).to(type).requires_grad_(true));
  }
  return inputs;
}

// Values and gradients in fp32.
inline void expect_equals_twin(const OperatorCase& c) {
  at::manual_seed(1);
  const auto inputs = random_inputs(c, at::kFloat);
  const at::Tensor fast = c.fast(inputs), reference = c.reference(inputs);
  // fp32 sums of at most a few hundred terms in another order.
  EXPECT_LT(relative_error(fast, reference), 2e-6) << c.name;
  const at::Tensor dy = at::randn(reference.sizes());
  const auto dx = gradients(fast, dy, inputs), expected = gradients(reference, dy, inputs);
  for (size_t i = 0; i < dx.size(); ++i) {
    EXPECT_LT(relative_error(dx[i], expected[i]), 1e-5) << c.name << " gradient " << i;
  }
}

// Values on bf16 inputs, compared with the twin on the same values in fp32.
inline void expect_within_bf16_rounding(const OperatorCase& c) {
  at::manual_seed(2);
  const auto inputs = random_inputs(c, at::kBFloat16);
  std::vector<at::Tensor> wide;
  for (const at::Tensor& x : inputs) wide.push_back(x.detach().to(at::kFloat));
  // One rounding to 8 bits of mantissa in the output, a few inside (probabilities, r = x + branch).
  EXPECT_LT(relative_error(c.fast(inputs), c.reference(wide)), 0.02) << c.name;
}

inline void expect_gradients_of_differences(const OperatorCase& c) {
  at::manual_seed(3);
  const auto inputs = random_inputs(c, at::kFloat);
  const at::Tensor y = c.fast(inputs);
  const at::Tensor dy = at::randn(y.sizes());
  const auto dx = gradients(y, dy, inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const at::Tensor direction = at::randn(inputs[i].sizes());
    const double step = 3e-3;
    const auto value = [&](double scale) {
      auto moved = inputs;
      moved[i] = (inputs[i].detach() + direction * scale);
      return (c.fast(moved).detach().to(at::kDouble) * dy.to(at::kDouble)).sum().item<double>();
    };
    const double numeric = (value(step) - value(-step)) / (2 * step);
    const double analytic =
        (dx[i].to(at::kDouble) * direction.to(at::kDouble)).sum().item<double>();
    const double scale = std::max(1.0, std::abs(analytic));
    // Central differences: error step² · third derivative plus fp32 rounding 1e-7 / step per term.
    EXPECT_NEAR(numeric, analytic, 5e-3 * scale) << c.name << " input " << i;
  }
}

}  // namespace osp
