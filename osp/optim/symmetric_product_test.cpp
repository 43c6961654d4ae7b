#include "osp/optim/symmetric_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <gtest/gtest.h>

#include "osp/optim/test_banks.h"

namespace osp {
namespace {

TEST(SymmetricProduct, EqualsThePlainProduct) {
  for (const auto& [n, depth] : {std::pair{1, 1}, {7, 7}, {255, 255}, {257, 257}, {300, 1000}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor x = random_tensor({n, depth}, "x").to(type);
      const at::Tensor sum = at::mm(x, x.t());
      for (const int64_t block : {64, 256}) {
        const at::Tensor out = at::empty_like(sum);
        symmetric_product(out, x, x.t(), 2, sum, -1, block);
        const at::Tensor plain = at::addmm(sum, x, x.t(), -1, 2);
        // The blocks may sum in another order and then round to the neighbouring number.
        const double rounding = type == at::kFloat ? 1e-6 : 1.0 / 256;
        EXPECT_LT(norm_of((out - plain).to(at::kFloat)), rounding * norm_of(plain.to(at::kFloat)))
            << n << "x" << depth << " by " << block;
      }
    }
  }
}

}  // namespace
}  // namespace osp
