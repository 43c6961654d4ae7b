// Causal attention: the reference twin and finite differences, with and without documents; the
// first key that a query sees.
#include "osp/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "osp/ops/segment_attention.h"
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

// The definition: a key more for every head, of logit s and value 0.
at::Tensor with_a_key_for_the_sink(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& mask, const at::Tensor& sinks) {
  const int64_t H = q.size(2);
  at::Tensor out = at::zeros_like(q);
  for (int64_t b = 0; b < q.size(0); ++b) {
    for (int64_t t = 0; t < q.size(1); ++t) {
      for (int64_t h = 0; h < H; ++h) {
        const int64_t seen = k.size(1) - q.size(1) + t + 1, group = h * k.size(2) / H;
        at::Tensor z = k[b].narrow(0, 0, seen).select(1, group).mv(q[b][t][h]) /
                       std::sqrt(static_cast<double>(q.size(3)));
        if (mask.defined()) z = z + mask[0][0][t].narrow(0, 0, seen);
        const at::Tensor e = z.exp(), sum = e.sum() + sinks[h].exp();
        out[b][t][h].copy_((e.unsqueeze(1) * v[b].narrow(0, 0, seen).select(1, group)).sum(0) /
                           sum);
      }
    }
  }
  return out;
}

TEST(CausalAttention, SinksTakeTheirPartOfEverySum) {
  at::manual_seed(1);
  const at::Tensor sinks = at::tensor({-3.0f, 0.0f, 1.5f, 6.0f});
  for (const int64_t T : {9, 1, 4}) {  // all, one or some of nine tokens
    for (const int64_t window : {0, 3}) {
      const at::Tensor q = at::randn({2, T, 4, 16}), k = at::randn({2, 9, 2, 16}),
                       v = at::randn({2, 9, 2, 16});
      const at::Tensor mask = window > 0 ? window_mask(T, 9, window, q) : at::Tensor();
      const at::Tensor wanted = with_a_key_for_the_sink(q, k, v, mask, sinks);
      const at::Tensor found = causal_attention(q, k, v, {{}, mask}, sinks);
      const at::Tensor twin = causal_attention_reference(q, k, v, mask, {}, sinks);
      EXPECT_LT(relative_error(found, wanted), 2e-6) << T << " " << window;  // fp32 sums
      EXPECT_LT(relative_error(twin, wanted), 2e-6) << T << " " << window;
      EXPECT_GT(relative_error(causal_attention(q, k, v, {{}, mask}), wanted), 0.1);
      const auto narrow = [](const at::Tensor& x) { return x.to(at::kBFloat16); };
      const at::Tensor bf16 = causal_attention(narrow(q), narrow(k), narrow(v),
                                               {{}, mask.defined() ? narrow(mask) : mask}, sinks);
      EXPECT_LT(relative_error(bf16, wanted), 0.03) << T << " " << window;  // 8 bits of mantissa
    }
  }
}

TEST(SegmentAttention, SinksTakeTheirPartOverAllRanges) {
  at::manual_seed(1);
  const at::Tensor sinks = at::tensor({-3.0f, 0.0f, 1.5f, 6.0f});
  const at::Tensor q = at::randn({6, 4, 16}), k = at::randn({12, 2, 16}),
                   v = at::randn({12, 2, 16});
  // Two texts that share their beginning, and one alone.
  const std::vector<Segment> segments = {{.length = 2, .slot = 6, .context = {{0, 4}, {4, 2}}},
                                         {.length = 1, .slot = 8, .context = {{0, 4}}},
                                         {.length = 3, .slot = 9}};
  for (const int64_t window : {0, 3, 100}) {
    const at::Tensor found = segment_attention(q, k, v, segments, window, 0.0, sinks);
    const at::Tensor twin = segment_attention_reference(q, k, v, segments, window, 0.0, sinks);
    EXPECT_LT(relative_error(found, twin), 2e-6) << window;
    EXPECT_GT(relative_error(segment_attention(q, k, v, segments, window), twin), 0.1) << window;
  }
  // The text alone by the definition.
  const at::Tensor wanted =
      with_a_key_for_the_sink(q.narrow(0, 3, 3).unsqueeze(0), k.narrow(0, 9, 3).unsqueeze(0),
                              v.narrow(0, 9, 3).unsqueeze(0), {}, sinks);
  const at::Tensor found = segment_attention(q, k, v, segments, 0, 0.0, sinks).narrow(0, 3, 3);
  EXPECT_LT(relative_error(found.unsqueeze(0), wanted), 2e-6);
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
