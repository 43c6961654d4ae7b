#include "osp/optim/panel_iteration.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"
#include "osp/optim/newton_schulz.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

using Steps = std::vector<std::array<double, 3>>;

// Result of `iterate` on x (bf16).
at::Tensor iterated(const at::Tensor& x, const std::function<void(PanelIteration&)>& iterate) {
  PanelIteration iteration(x.size(0), x.size(1), share_tasks);
  std::memcpy(iteration.data(), x.const_data_ptr(), x.nbytes());
  iteration.begin();
  iterate(iteration);
  iteration.end();
  at::Tensor result = at::empty_like(x);
  std::memcpy(result.data_ptr(), iteration.data(), x.nbytes());
  return result.to(at::kFloat);
}

at::Tensor plainly(const at::Tensor& x, const Steps& steps) {
  return iterated(x, [&](PanelIteration& iteration) {
    for (const auto& [a, b, c] : steps) iteration.step(a, b, c);
  });
}

// Singular vectors at random, singular values from 1 down to `least` in equal ratios.
at::Tensor decaying(int64_t rows, int64_t cols, double least, uint64_t seed) {
  const auto basis = [&](int64_t n, const char* name) {
    const int64_t count = std::min(rows, cols);
    return std::get<0>(at::linalg_qr(random_tensor({n, count}, name, seed).to(at::kDouble)));
  };
  const int64_t count = std::min(rows, cols);
  const at::Tensor values =
      at::exp(at::arange(count, at::kDouble) * (std::log(least) / static_cast<double>(count - 1)));
  return (basis(rows, "u") * values).matmul(basis(cols, "v").t()).to(at::kFloat);
}

double error_of(const at::Tensor& x, const at::Tensor& exact) {
  return norm_of(x - exact) / norm_of(exact);
}

TEST(PanelIteration, StepIsThePolynomialOfTheGramMatrix) {
  if (!has_avx512_bf16()) GTEST_SKIP() << "needs a CPU with AVX512_BF16 (and OSP_ISA unset)";
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1},
                                   {7, 7},
                                   {1, 40},
                                   {40, 1},
                                   {255, 257},
                                   {257, 255},
                                   {300, 1000},
                                   {1000, 300}}) {
    const at::Tensor update = random_tensor({rows, cols}, "step");
    // Singular values of at most 1/3, where the terms of the polynomial do not cancel.
    const NewtonSchulz settings{.steps = {{3.4445, -4.7750, 2.0315}}, .norm_scale = 3};
    const at::Tensor x = (update / (norm_of(update) * 3)).to(at::kBFloat16);
    const at::Tensor exact = newton_schulz_reference(update, settings, at::kDouble);
    // x, A, the polynomial and the result are rounded to 8 bits each.
    EXPECT_LT(error_of(plainly(x, settings.steps), exact), 4.0 / 512) << rows << "x" << cols;
  }
}

TEST(PanelIteration, SameBitsForOneAndTwoThreads) {
  if (!has_avx512_bf16()) GTEST_SKIP() << "needs a CPU with AVX512_BF16 (and OSP_ISA unset)";
  const at::Tensor x = random_tensor({300, 500}, "threads").div(400).to(at::kBFloat16);
  const Steps steps = newton_schulz_settings({}).steps;
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = plainly(x, steps);
  at::set_num_threads(2);
  EXPECT_TRUE(at::equal(plainly(x, steps), one));
  at::set_num_threads(before);
}

// Where singular values are still small, as in the first two steps after division by the Frobenius
// norm. Pairs of later steps end up to three times as far away.
TEST(PanelIteration, FirstTwoStepsByGramMatricesAreNotLessExact) {
  if (!has_avx512_bf16()) GTEST_SKIP() << "needs a CPU with AVX512_BF16 (and OSP_ISA unset)";
  for (const char* coefficients : {"jordan", "you"}) {
    const Steps steps = newton_schulz_settings({.coefficients = coefficients}).steps;
    for (const double least : {0.0, 0.1, 0.01, 0.001}) {  // 0: normal numbers
      double single = 0, paired = 0, single_polar = 0, paired_polar = 0;
      for (uint64_t seed = 0; seed < 3; ++seed) {
        const at::Tensor update =
            least > 0 ? decaying(96, 272, least, seed) : random_tensor({96, 272}, "normal", seed);
        const at::Tensor x = (update / norm_of(update)).to(at::kBFloat16);
        const at::Tensor exact = newton_schulz_reference(update, {.steps = steps}, at::kDouble);
        const auto [u, values, v] = at::linalg_svd(update.to(at::kDouble), false);
        const at::Tensor polar = at::Tensor(u.matmul(v)).to(at::kFloat);
        const at::Tensor by_steps = plainly(x, steps);
        const at::Tensor by_pair = iterated(x, [&](PanelIteration& iteration) {
          iteration.two_steps(steps[0], steps[1]);
          for (size_t i = 2; i < steps.size(); ++i) {
            iteration.step(steps[i][0], steps[i][1], steps[i][2]);
          }
        });
        single += error_of(by_steps, exact);
        paired += error_of(by_pair, exact);
        single_polar += error_of(by_steps, polar);
        paired_polar += error_of(by_pair, polar);
      }
      // For the luck of three draws.
      EXPECT_LT(paired, 1.1 * single) << coefficients << " " << least;
      EXPECT_LT(paired_polar, 1.01 * single_polar) << coefficients << " " << least;
    }
  }
}

}  // namespace
}  // namespace osp
