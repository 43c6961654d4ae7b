// Causal attention: the reference twin and finite differences, with and without documents; the
// first key that a query sees.
#include "osp/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <vector>

#include "osp/ops/test_operators.h"

namespace osp {
namespace {

OperatorCase grouped_heads() {
  return {"causal_attention, grouped heads",
          [](const auto& x) { return causal_attention(x[0], x[1], x[2]); },
          [](const auto& x) { return causal_attention_reference(x[0], x[1], x[2], {}); },
          {{2, 9, 4, 16}, {2, 9, 2, 16}, {2, 9, 2, 16}}};
}

OperatorCase within_documents() {
  const at::Tensor mask = document_mask(some_ids().floor_divide(3), at::kFloat);
  return {"causal_attention within documents",
          [=](const auto& x) {
            return causal_attention(x[0], x[1], x[2], {{}, mask});
          },
          [=](const auto& x) { return causal_attention_reference(x[0], x[1], x[2], mask); },
          {{2, 6, 2, 16}, {2, 6, 2, 16}, {2, 6, 2, 16}}};
}

TEST(CausalAttention, EqualsItsReferenceTwin) {
  expect_equals_twin(grouped_heads());
  expect_equals_twin(within_documents());
}

// Without documents: their mask is fp32, as the tensor library's operator wants it for fp32 heads.
TEST(CausalAttention, InBf16StaysWithinItsRounding) {
  expect_within_bf16_rounding(grouped_heads());
}

TEST(CausalAttention, GradientsEqualFiniteDifferences) {
  expect_gradients_of_differences(grouped_heads());
  expect_gradients_of_differences(within_documents());
}

TEST(CausalAttention, OfSingleTokensIsTheirValuesExactly) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const at::Tensor q = at::randn({5, 1, 4, 16}).to(type), k = at::randn({5, 1, 2, 16}).to(type);
    const at::Tensor v = at::randn({5, 1, 2, 16}).to(type);
    const at::Tensor expected = v.repeat_interleave(2, 2);
    EXPECT_TRUE(at::equal(causal_attention(q, k, v), expected));  // computed, as for a graph
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(at::equal(causal_attention(q, k, v), expected));
  }
}

TEST(FirstKeys, AreTheDocumentsFirstTokenOrTheWindowsOldest) {
  const at::Tensor documents = at::tensor({0, 0, 0, 0, 3, 3, 7}, at::kInt).unsqueeze(0);
  const auto expect = [](const at::Tensor& first, std::vector<int32_t> want) {
    EXPECT_TRUE(first.equal(at::tensor(want, at::kInt).unsqueeze(0))) << first;
  };
  expect(first_keys(documents, 7, 0), {0, 0, 0, 0, 4, 4, 6});
  expect(first_keys(documents, 7, 2), {0, 0, 1, 2, 4, 4, 6});
  expect(first_keys({}, 5, 3), {0, 0, 0, 1, 2});
  EXPECT_FALSE(first_keys({}, 5, 5).defined());
}

}  // namespace
}  // namespace osp
