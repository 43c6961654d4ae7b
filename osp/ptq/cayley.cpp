#include "osp/ptq/cayley.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "osp/base/error.h"
#include "osp/ptq/rotation.h"

namespace osp {
namespace {

constexpr int kIterations = 5;
constexpr int kLargestNumCorrections = 60;
constexpr double kExact = 2e-15;  // times n: what fp64 leaves of Q Qᵀ − I
constexpr double kSmallest = 1e-8;

struct Direction {
  at::Tensor skew;  // W
  double length;    // α
};

Direction direction(const at::Tensor& x, const at::Tensor& v, double rate) {
  const at::Tensor vx = at::matmul(v, x);
  const at::Tensor half = vx - at::matmul(x.t(), at::matmul(x, vx)) * 0.5;
  const at::Tensor skew = half - half.t();
  const double norm = skew.abs().sum(0).max().item<double>();
  return {skew, std::min(1.0 / (norm + kSmallest), rate)};
}

void check_square(const at::Tensor& x, const at::Tensor& gradient) {
  OSP_CHECK(x.scalar_type() == at::kDouble && x.dim() == 2 && x.size(0) == x.size(1) &&
                gradient.sizes() == x.sizes(),
            "a square fp64 matrix and its gradient");
}

}  // namespace

double cosine_rate(double rate, int64_t step, int64_t steps) {
  const double part = static_cast<double>(step) / static_cast<double>(steps);
  return rate * 0.5 * (1.0 + std::cos(std::numbers::pi * part));
}

at::Tensor orthonormalized(const at::Tensor& x) {
  at::Tensor y = x;
  for (int i = 0; i < kLargestNumCorrections; ++i) {
    if (orthogonality_error(y) < kExact * static_cast<double>(y.size(0))) return y;
    y = y * 1.5 - at::matmul(at::matmul(y, y.t()), y) * 0.5;
  }
  OSP_CHECK(orthogonality_error(y) < kOrthogonalityLimit, "a matrix that is far from orthogonal");
  return y;
}

CayleyStep cayley_step(at::Tensor& x, const at::Tensor& gradient, double rate) {
  const c10::NoGradGuard no_graph;
  check_square(x, gradient);
  const at::Tensor v = -gradient.to(at::kDouble).t(), start = x.t();
  const auto [skew, length] = direction(x, v, rate);
  at::Tensor y = start + v * length;
  for (int i = 0; i < kIterations; ++i) {
    y = start + at::matmul(skew, start + y) * (0.5 * length);
  }
  at::Tensor next = y.t().contiguous();
  CayleyStep step{.length = length, .error = orthogonality_error(next), .corrected = false};
  if (step.error > kOrthogonalityLimit) {
    next = orthonormalized(next);
    step.corrected = true;
  }
  x.copy_(next);
  return step;
}

at::Tensor cayley_step_reference(const at::Tensor& x, const at::Tensor& gradient, double rate) {
  const c10::NoGradGuard no_graph;
  check_square(x, gradient);
  const auto [skew, length] = direction(x, -gradient.to(at::kDouble).t(), rate);
  const at::Tensor identity = at::eye(x.size(0), at::kDouble);
  const at::Tensor half = skew * (0.5 * length);
  return at::linalg_solve(identity - half, at::matmul(identity + half, x.t())).t();
}

}  // namespace osp
