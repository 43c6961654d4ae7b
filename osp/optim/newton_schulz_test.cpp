#include "osp/optim/newton_schulz.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_matrix_norm.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

// ‖x − y‖ / ‖y‖.
double relative_error(const at::Tensor& x, const at::Tensor& y) {
  return norm_of(x - y) / norm_of(y);
}

at::Tensor polar_factor(const at::Tensor& x) {
  const auto [u, s, vt] = at::linalg_svd(x.to(at::kDouble), false);
  return at::Tensor(u.matmul(vt)).to(at::kFloat);
}

struct Case {
  const char* name;
  NewtonSchulzOptions options;
};

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"osp-paper", {}},
      {"tight", {.preset = "tight"}},
      {"polar-express", {.coefficients = "polar-express"}},
      {"jordan with s8", {.normalisation = "s8"}},
      {"renormalised", {.renormalize = true}},
      {"one step", {.ns_steps = 1}},
  };
  return all;
}

const std::vector<std::pair<int64_t, int64_t>> kShapes = {
    {64, 64}, {64, 176}, {176, 64}, {1, 40}, {40, 1}, {33, 57},
};
const std::vector<std::pair<int64_t, int64_t>> kLargeShapes = {{255, 257}, {1000, 300}};

// bf16 has 8 significant bits, so each of the 5 x 3 products and sums errs by up to 2^-9 = 0.002,
// and the iteration multiplies small singular values, with what earlier steps rounded, by up to 4 a
// step. Either way of rounding ends within 0.03 to 0.04 of the iteration in fp64; two ways differ
// by at most the sum of both.
constexpr double kBf16Iteration = 0.07;

TEST(NewtonSchulz, FastBankEqualsReferenceWithinBf16) {
  for (const Case& c : cases()) {
    const NewtonSchulz settings = newton_schulz_settings(c.options);
    for (const auto& [rows, cols] : kShapes) {
      const at::Tensor bank = random_tensor({3, rows, cols}, c.name);
      const at::Tensor fast = newton_schulz(bank, settings);
      for (int64_t i = 0; i < 3; ++i) {
        const at::Tensor slow = newton_schulz_reference(bank[i], settings);
        EXPECT_LT(relative_error(fast[i], slow), kBf16Iteration)
            << c.name << " " << rows << "x" << cols;
      }
    }
  }
}

TEST(NewtonSchulz, BatchedProductsEqualExactArithmeticWithinBf16) {
  for (const Case& c : cases()) {
    const NewtonSchulz settings = newton_schulz_settings(c.options);
    for (const auto& [rows, cols] : kShapes) {
      const at::Tensor bank = random_tensor({3, rows, cols}, c.name);
      const at::Tensor batched = newton_schulz_batched(bank, settings);
      ASSERT_EQ(batched.sizes(), bank.sizes());
      for (int64_t i = 0; i < 3; ++i) {
        const at::Tensor exact = newton_schulz_reference(bank[i], settings, at::kDouble);
        EXPECT_LT(relative_error(batched[i], exact), kBf16Iteration)
            << c.name << " " << rows << "x" << cols;
      }
    }
  }
  const at::Tensor zero = newton_schulz_batched(at::zeros({2, 8, 4}), newton_schulz_settings({}));
  EXPECT_TRUE(zero.equal(at::zeros({2, 8, 4})));
}

TEST(NewtonSchulz, LargeMatricesEqualTheReferenceWithinBf16) {
  const NewtonSchulz settings = newton_schulz_settings({});
  for (const auto& [rows, cols] : kLargeShapes) {
    const at::Tensor bank = random_tensor({1, rows, cols}, "large");
    const at::Tensor slow = newton_schulz_reference(bank[0], settings);
    EXPECT_LT(relative_error(newton_schulz(bank, settings)[0], slow), kBf16Iteration)
        << rows << "x" << cols;
  }
}

TEST(NewtonSchulz, FastBankIsAsCloseToExactArithmeticAsTheReference) {
  for (const Case& c : cases()) {
    const NewtonSchulz settings = newton_schulz_settings(c.options);
    for (const auto& [rows, cols] : kShapes) {
      if (std::min(rows, cols) < 2) continue;  // one singular value: one draw of rounding errors
      const at::Tensor bank = random_tensor({8, rows, cols}, c.name);
      const at::Tensor fast = newton_schulz(bank, settings);
      double fast_error = 0, reference_error = 0;
      for (int64_t i = 0; i < 8; ++i) {
        const at::Tensor exact = newton_schulz_reference(bank[i], settings, at::kDouble);
        fast_error += relative_error(fast[i], exact);
        reference_error += relative_error(newton_schulz_reference(bank[i], settings), exact);
      }
      // It rounds less often; 1.1 for the luck of eight draws.
      EXPECT_LT(fast_error, 1.1 * reference_error) << c.name << " " << rows << "x" << cols;
    }
  }
}

TEST(NewtonSchulz, SingularVectorsStayAndSingularValuesApproachOne) {
  // In exact arithmetic five steps send all of [0.01, 1] into [0.68, 1.14] (jordan), [0.978, 1.032]
  // (you) and [0.859, 1.141] (polar-express); 0.03 more for bf16.
  const std::vector<std::pair<Case, double>> limits = {
      {{"jordan", {}}, 0.35}, {{"you, s8", {.preset = "tight"}}, 0.062}, {cases()[2], 0.171}};
  for (const auto& [c, limit] : limits) {
    const at::Tensor update = random_tensor({1, 64, 176}, "polar");
    const at::Tensor result = newton_schulz(update, newton_schulz_settings(c.options))[0];
    EXPECT_LT(relative_error(result, polar_factor(update[0])), limit) << c.name;
  }
}

TEST(NewtonSchulz, TallMatrixEqualsTransposedWide) {
  // Both multiply the same numbers; a blocked product may sum in another order.
  const at::Tensor wide = random_tensor({1, 48, 112}, "wide");
  const at::Tensor tall = wide.transpose(1, 2).contiguous();
  const NewtonSchulz settings = newton_schulz_settings({});
  EXPECT_LT(relative_error(newton_schulz(tall, settings)[0].t(), newton_schulz(wide, settings)[0]),
            kBf16Iteration);
}

TEST(NewtonSchulz, ScaleOfTheUpdateDoesNotMatter) {
  const at::Tensor update = random_tensor({1, 32, 80}, "scale");
  for (const Case& c : cases()) {
    const NewtonSchulz settings = newton_schulz_settings(c.options);
    const at::Tensor expected = newton_schulz(update, settings);
    // Powers of two leave every rounding as it is, but for eps (1e-8, 1e-6) beside norms of 50 and
    // 3e15: that turns single roundings.
    EXPECT_LT(relative_error(newton_schulz(update * 0x1p46, settings), expected), 0.005) << c.name;
  }
}

// No floor for small gradients to drown in: norms of 3e-3 beside eps of 1e-8 and 1e-6. Other bf16
// numbers to start with give other roundings; what drowns would be off by nearly 1.
TEST(NewtonSchulz, SmallUpdatesAreNotFlattened) {
  const at::Tensor update = random_tensor({1, 32, 80}, "small");
  for (const Case& c : cases()) {
    const NewtonSchulz settings = newton_schulz_settings(c.options);
    EXPECT_LT(
        relative_error(newton_schulz(update * 0x1p-14, settings), newton_schulz(update, settings)),
        0.05)
        << c.name;
  }
}

TEST(NewtonSchulz, ZeroStaysZero) {
  for (const Case& c : cases()) {
    const at::Tensor zero = at::zeros({2, 16, 24}, at::kFloat);
    EXPECT_TRUE(at::equal(newton_schulz(zero, newton_schulz_settings(c.options)), zero)) << c.name;
  }
}

TEST(NewtonSchulz, RenormalisedResultHasThePolarFactorsNorm) {
  const NewtonSchulzOptions options{.renormalize = true};
  const at::Tensor result =
      newton_schulz(random_tensor({1, 48, 112}, "norm"), newton_schulz_settings(options));
  // The norm of bf16 values is taken in fp32 and applied in fp32.
  EXPECT_NEAR(norm_of(result), std::sqrt(48.0), 1e-5 * std::sqrt(48.0));
}

TEST(NewtonSchulz, TheSchattenNormBoundsTheSpectralNormMuchTighterThanFrobenius) {
  const at::Tensor x = random_tensor({64, 176}, "s8");
  const at::Tensor gram = x.matmul(x.t());
  const double schatten_norm = std::pow(norm_of(gram.matmul(gram)), 0.25);
  const double spectral = at::linalg_matrix_norm(x, 2).item<double>();
  EXPECT_GE(schatten_norm, spectral);
  EXPECT_LT(schatten_norm, 1.6 * spectral);
  EXPECT_GT(norm_of(x), 3 * spectral);
}

TEST(NewtonSchulz, SameBitsForAnyNumberOfThreadsUpToTheNumberOfMatrices) {
  const at::Tensor bank = random_tensor({5, 64, 176}, "threads");
  const NewtonSchulz settings = newton_schulz_settings({});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = newton_schulz(bank, settings);
  for (const int threads : {2, 3, 5}) {
    at::set_num_threads(threads);
    EXPECT_TRUE(at::equal(newton_schulz(bank, settings), one)) << threads;
  }
  at::set_num_threads(before);
}

TEST(NewtonSchulz, RefusesMoreStepsThanASetHas) {
  EXPECT_EQ(newton_schulz_settings({.ns_steps = 7}).steps.size(), 7u);
  EXPECT_THROW(newton_schulz_settings({.ns_steps = 6, .coefficients = "you"}), Error);
}

}  // namespace
}  // namespace osp
