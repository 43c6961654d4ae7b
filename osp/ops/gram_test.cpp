#include "osp/ops/gram.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/ops/test_tensors.h"

namespace osp {
namespace {

TEST(Gram, UpperTriangleEqualsTheProductInFp64) {
  for (const int64_t rows : {1, 2, 255, 256, 701}) {
    for (const int64_t columns : {1, 31, 32, 33, 100, 200}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const at::Tensor x = gaussian(rows, columns, "x").to(type);
        at::Tensor gram = at::zeros({columns, columns}, at::kFloat);
        add_gram(gram, x);
        add_gram(gram, x);
        const at::Tensor wanted = gram_reference(x).mul(2.0);
        const double scale = wanted.diagonal().max().item<double>();
        // fp32 sums of at most 1402 exact products.
        EXPECT_LT(gram.triu().sub(wanted.triu()).abs().max().item<double>(), 1e-5 * scale)
            << rows << " rows, " << columns << " columns";
      }
    }
  }
}

TEST(Gram, ColumnsOfAWiderMatrixGiveTheBitsOfTheirCopy) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor wide = gaussian(301, 200, "wide").to(type);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 33}, {70, 60}, {129, 71}}) {
      const at::Tensor columns = wide.narrow(1, first, count);
      at::Tensor gram = at::zeros({count, count}, at::kFloat), of_copy = gram.clone();
      add_gram(gram, columns);
      add_gram(of_copy, columns.contiguous());
      EXPECT_TRUE(at::equal(gram.triu(), of_copy.triu())) << first << " + " << count;
    }
  }
}

TEST(Gram, SixteenBitProductsAreExact) {
  // 1 + 2^-7 squared needs 15 bits of mantissa: more than bf16 has, fewer than fp32.
  const double x = 1.0 + 1.0 / 128;
  at::Tensor rows = at::zeros({2, 32}, at::kBFloat16).fill_(x);
  at::Tensor gram = at::zeros({32, 32}, at::kFloat);
  add_gram(gram, rows);
  EXPECT_EQ(gram[0][31].item<double>(), 2.0 * x * x);
}

}  // namespace
}  // namespace osp
