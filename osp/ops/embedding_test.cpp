// The embedding: rows of the table, and the scatter of their gradient.
#include "osp/ops/embedding.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <vector>

#include "osp/ops/test_operators.h"

namespace osp {
namespace {

TEST(Embedding, ScattersGradientsOfRepeatedIds) {
  const WeightRef table{at::randn({5, 96}), at::zeros({5, 96})};
  const at::Tensor anchor = at::zeros({1}).requires_grad_(true);
  const at::Tensor ids = some_ids();
  const at::Tensor y = embedding(ids, table, anchor);
  EXPECT_TRUE(y.flatten(0, 1).equal(table.value.index_select(0, ids.flatten())));
  const at::Tensor dy = at::randn(y.sizes());
  torch::autograd::backward({y}, {dy});
  const at::Tensor expected = at::zeros({5, 96}).index_add_(0, ids.flatten(), dy.flatten(0, 1));
  EXPECT_LT(relative_error(table.gradient, expected), 1e-6);
}

// fp64 has no kernels: it takes the path of every device without them.
TEST(Embedding, WithoutKernelsFillsTheSameGradients) {
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor anchor = at::zeros({}, wide).requires_grad_();
  const at::Tensor ids = at::tensor(std::vector<int64_t>{4, 0, 4, 2});
  const WeightRef table{at::randn({5, 3}, wide), at::zeros({5, 3}, wide)};
  const at::Tensor dy = at::randn({4, 3}, wide);
  embedding(ids, table, anchor).backward(dy);
  EXPECT_LT(relative_error(table.gradient, at::zeros({5, 3}, wide).index_add(0, ids, dy)), 1e-12);
}

}  // namespace
}  // namespace osp
