#include "osp/quant/hadamard.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/base/philox.h"

namespace osp {
namespace {

at::Tensor gaussian(int64_t rows, int64_t columns) {
  at::Tensor x = at::zeros({rows, columns}, at::kFloat);
  RandomStream(5, "hadamard")
      .fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0.0, 1.0);
  return x;
}

TEST(Hadamard, EqualsTheMatrixProduct) {
  for (const int64_t size : {1, 2, 4, 32, 64, 128, 256}) {
    const at::Tensor x = gaussian(9, size);
    std::vector<float> entries = hadamard_matrix_reference(size);
    const at::Tensor matrix =
        at::from_blob(entries.data(), {size, size}, at::kFloat).to(at::kDouble);
    const at::Tensor expected =
        x.to(at::kDouble).mm(matrix).div(std::sqrt(static_cast<double>(size)));
    // log2(256) = 8 roundings of numbers of size about sqrt(K)·3 before the division: 1e-6 is safe.
    EXPECT_LT(hadamard_transform(x).sub(expected).abs().max().item<double>(), 3e-6) << size;
  }
}

TEST(Hadamard, IsItsOwnInverseAndKeepsTheNorm) {
  const at::Tensor x = gaussian(50, 64);
  const at::Tensor y = hadamard_transform(x);
  EXPECT_LT(hadamard_transform(y).sub(x).abs().max().item<double>(), 3e-6);  // twelve roundings
  const at::Tensor ratio =
      y.square().sum(-1, false, at::kDouble).div(x.square().sum(-1, false, at::kDouble));
  EXPECT_LT(ratio.sub(1.0).abs().max().item<double>(), 1e-6);
}

TEST(Hadamard, SpreadsOneOutlierOverAllChannels) {
  at::Tensor x = at::zeros({1, 64}, at::kFloat);
  x.select(1, 5).fill_(80.0);
  EXPECT_TRUE(hadamard_transform(x).abs().eq(10.0).all().item<bool>());
}

TEST(Hadamard, StridedInputGivesTheSameAsAContiguousOne) {
  const at::Tensor x = gaussian(64, 8 * 16).view({2, 32, 8, 16}).transpose(1, 2);
  EXPECT_TRUE(hadamard_transform(x).equal(hadamard_transform(x.contiguous())));
}

TEST(Hadamard, OtherSizesAreRefusedByName) {
  for (const int64_t size : {3, 48, 96, 80}) {
    try {
      check_hadamard_size(size, "head size");
      FAIL() << size;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(error.what()).find("head size is " + std::to_string(size)),
                std::string::npos);
    }
  }
}

}  // namespace
}  // namespace osp
