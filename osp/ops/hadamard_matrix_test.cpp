#include "osp/ops/hadamard_matrix.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/ops/hadamard_field.h"

namespace osp {
namespace {

at::Tensor as_tensor(std::vector<int8_t> entries, int64_t n) {
  return at::from_blob(entries.data(), {n, n}, at::TensorOptions().dtype(at::kChar))
      .to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

// Orthogonal rows of ±1, the first all ones.
bool is_hadamard(int64_t n) {
  const at::Tensor h = as_tensor(hadamard_matrix(n), n);
  // Sums of at most 1024 numbers ±1 are exact in fp32.
  return h.abs().eq(1).all().item<bool>() && h[0].eq(1).all().item<bool>() &&
         at::mm(h, h.t()).equal(at::eye(n).mul(n));
}

TEST(FiniteField, NumbersArePrimePowersOrNot) {
  for (const auto [q, prime, exponent] :
       {std::array<int64_t, 3>{2, 2, 1}, {27, 3, 3}, {25, 5, 2}, {343, 7, 3}, {107, 107, 1}}) {
    const auto power = prime_power(q);
    ASSERT_TRUE(power.has_value()) << q;
    EXPECT_EQ(power->prime, prime);
    EXPECT_EQ(power->exponent, exponent);
  }
  for (const int64_t q : {-3, 0, 1, 6, 51, 171, 343 * 2}) EXPECT_FALSE(prime_power(q)) << q;
}

TEST(FiniteField, ProductsFormAGroupAndHalfTheElementsAreSquares) {
  for (const int64_t q : {3, 5, 9, 25, 27, 49}) {
    const FiniteField field(q);
    int64_t squares = 0;
    for (int64_t a = 1; a < q; ++a) {
      squares += field.character(a) == 1;
      std::vector<int64_t> products;
      for (int64_t b = 1; b < q; ++b) products.push_back(field.multiply(a, b));
      std::ranges::sort(products);
      for (int64_t b = 1; b < q; ++b) ASSERT_EQ(products[b - 1], b) << q;  // a permutation
      EXPECT_EQ(field.multiply(a, 1), a);
      EXPECT_EQ(field.subtract(a, a), 0);
      EXPECT_EQ(field.subtract(a, 0), a);
    }
    EXPECT_EQ(2 * squares, q - 1);
    EXPECT_EQ(field.character(0), 0);
  }
}

TEST(FiniteField, ProductDistributesOverDifferences) {
  const FiniteField field(343);
  for (int64_t a = 1; a < 343; a += 37) {
    for (int64_t b = 0; b < 343; b += 11) {
      const int64_t c = (b * b + 5) % 343;
      EXPECT_EQ(field.multiply(a, field.subtract(b, c)),
                field.subtract(field.multiply(a, b), field.multiply(a, c)));
    }
  }
}

TEST(HadamardMatrix, RowsOfEveryBaseAreOrthogonal) {
  const std::vector<int64_t> bases = hadamard_bases();
  EXPECT_GT(bases.size(), 90u);
  for (const int64_t n : bases) EXPECT_TRUE(is_hadamard(n)) << n;
}

TEST(HadamardMatrix, OrdersOfKnownModelsAreCovered) {
  for (const int64_t base : {12, 20, 28, 36, 40, 44, 52, 60, 108, 140, 156, 172}) {
    EXPECT_GT(hadamard_factors(base).blocks, 0) << base;
    EXPECT_TRUE(is_hadamard(base)) << base;
  }
  // Widths and inner sizes of Llama, Mistral, Qwen, OLMo, SmolLM, StableLM, Pythia and OPT.
  for (const int64_t size :
       {576,  768,  896,  960,  1536, 2048, 2560,  2816,  3072,  3584,  4096,  4864,
        5120, 5504, 5632, 6912, 8192, 8960, 10240, 11008, 13824, 14336, 18944, 28672}) {
    EXPECT_GT(hadamard_factors(size).blocks, 0) << size;
  }
}

TEST(HadamardMatrix, DoubledMatricesAreHadamardMatrices) {
  for (const int64_t n : {2, 8, 24, 40, 56, 80, 96, 312, 344}) EXPECT_TRUE(is_hadamard(n)) << n;
}

TEST(HadamardMatrix, FactorsUseTheSmallestBase) {
  EXPECT_EQ(hadamard_factors(768).base, 12);
  EXPECT_EQ(hadamard_factors(768).blocks, 64);
  EXPECT_EQ(hadamard_factors(40).base, 20);
  EXPECT_EQ(hadamard_factors(11008).base, 172);
  EXPECT_EQ(hadamard_factors(64).base, 1);
  EXPECT_EQ(hadamard_factors(368).base, 368);  // 92 is not known here, 4 · 92 is: 367 is prime
}

TEST(HadamardMatrix, OtherSizesAreRefusedByNameWithWhatIsPossible) {
  for (const int64_t size : {0, 3, 6, 92, 1030}) {
    EXPECT_EQ(hadamard_factors(size).blocks, 0) << size;
    try {
      check_hadamard_size(size, "head size");
      FAIL() << size;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      const std::string message = error.what();
      EXPECT_NE(message.find("head size is " + std::to_string(size)), std::string::npos) << message;
      EXPECT_NE(message.find("1, 12, 20, 28, 36, 44, 52, 60"), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace osp
