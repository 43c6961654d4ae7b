#include "osp/ops/fused_attention.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "osp/ops/attention.h"

namespace osp {
namespace {

struct AttentionShape {
  int64_t B, T, H, Hkv, K;
};

struct AttentionInputs {
  at::Tensor q, k, v, d_out;
};

AttentionInputs attention_inputs_of(const AttentionShape& c) {
  const auto random = [](std::vector<int64_t> shape) { return at::randn(shape).to(at::kBFloat16); };
  return {random({c.B, c.T, c.H, c.K}), random({c.B, c.T, c.Hkv, c.K}),
          random({c.B, c.T, c.Hkv, c.K}), random({c.B, c.T, c.H, c.K})};
}

using AttentionFunction = std::function<at::Tensor(const AttentionInputs&)>;

// The output and the gradients of q, k and v.
std::vector<at::Tensor> output_and_gradients(const AttentionInputs& in,
                                             const AttentionFunction& attention) {
  AttentionInputs leaves = in;
  for (at::Tensor* x : {&leaves.q, &leaves.k, &leaves.v}) {
    *x = x->detach().clone().requires_grad_(true);
  }
  const at::Tensor out = attention(leaves);
  auto results = torch::autograd::grad({out}, {leaves.q, leaves.k, leaves.v}, {in.d_out});
  results.insert(results.begin(), out.detach());
  return results;
}

AttentionInputs in_fp64(const AttentionInputs& in) {
  return {in.q.to(at::kDouble), in.k.to(at::kDouble), in.v.to(at::kDouble),
          in.d_out.to(at::kDouble)};
}

at::Tensor fused_of(const AttentionInputs& in) { return fused_attention(in.q, in.k, in.v); }
at::Tensor reference_of(const AttentionInputs& in) {
  return causal_attention_reference(in.q, in.k, in.v, {});
}

// Probabilities, their gradients and the results have 8 bits of mantissa: every difference is some
// 2⁻⁹ of the largest.
void expect_near(const std::vector<at::Tensor>& got, const std::vector<at::Tensor>& want) {
  const char* names[] = {"output", "dq", "dk", "dv"};
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = (got[i].to(at::kDouble) - want[i]).abs().max().item<double>();
    EXPECT_LE(difference, 0.02 * want[i].abs().max().item<double>()) << names[i];
  }
}

class FusedAttention : public testing::Test {
  void SetUp() override {
    at::manual_seed(11);
    if (!has_fused_attention(at::zeros({1, 1, 1, 2}, at::kBFloat16))) {
      GTEST_SKIP() << "this CPU (or OSP_ISA) has no bf16 products";
    }
  }
};

TEST_F(FusedAttention, OutputAndGradientsEqualTheReferencesInFp64) {
  const AttentionShape cases[] = {{1, 1, 1, 1, 2},    {2, 2, 2, 1, 64},   {1, 63, 2, 2, 16},
                                  {2, 64, 3, 1, 64},  {1, 65, 4, 2, 96},  {2, 130, 2, 1, 80},
                                  {1, 300, 6, 2, 64}, {3, 256, 4, 4, 64}, {1, 1100, 2, 1, 128}};
  for (const AttentionShape& c : cases) {
    SCOPED_TRACE(testing::Message()
                 << "T " << c.T << ", heads " << c.H << " of " << c.Hkv << ", size " << c.K);
    const AttentionInputs in = attention_inputs_of(c);
    expect_near(output_and_gradients(in, fused_of),
                output_and_gradients(in_fp64(in), reference_of));
  }
}

TEST_F(FusedAttention, QueriesSeeNoKeyBeforeTheFirst) {
  const AttentionShape c{2, 700, 2, 1, 32};
  const AttentionInputs in = attention_inputs_of(c);
  const at::Tensor t = at::arange(c.T, at::kInt);
  // Documents of 150 tokens in one sequence and 400 in the other, and a window of 300.
  const at::Tensor first =
      first_keys(at::stack({t.floor_divide(150), t.floor_divide(400)}), c.T, 300);
  const at::Tensor mask = at::zeros({c.B, 1, c.T, c.T}, at::kDouble)
                              .masked_fill((t.view({1, 1, -1}) > t.view({1, -1, 1}))
                                               .logical_or(t.view({1, 1, -1}) < first.unsqueeze(2))
                                               .unsqueeze(1),
                                           -std::numeric_limits<double>::infinity());
  expect_near(
      output_and_gradients(
          in, [&](const AttentionInputs& x) { return fused_attention(x.q, x.k, x.v, first); }),
      output_and_gradients(in_fp64(in), [&](const AttentionInputs& x) {
        return causal_attention_reference(x.q, x.k, x.v, mask);
      }));
}

TEST_F(FusedAttention, LargeLogitsStayFinite) {
  AttentionInputs in = attention_inputs_of({1, 200, 2, 1, 64});
  in.q = in.q * 100;
  expect_near(output_and_gradients(in, fused_of), output_and_gradients(in_fp64(in), reference_of));
}

TEST_F(FusedAttention, DoesNotDependOnTheNumberOfThreads) {
  const AttentionInputs in = attention_inputs_of({2, 200, 4, 2, 64});
  const int threads = at::get_num_threads();
  const auto many = output_and_gradients(in, fused_of);
  at::set_num_threads(1);
  const auto one = output_and_gradients(in, fused_of);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(many[i])) << i;
}

TEST_F(FusedAttention, TakesStridedHeadsAndNothingAtAll) {
  const AttentionInputs in = attention_inputs_of({2, 70, 2, 2, 16});
  AttentionInputs strided = in;
  strided.q = in.q.permute({1, 3, 0, 2}).contiguous().permute({2, 0, 3, 1});
  EXPECT_TRUE(fused_of(strided).equal(fused_of(in)));
  const AttentionInputs none = attention_inputs_of({0, 7, 2, 1, 16});
  EXPECT_EQ(fused_of(none).sizes(), none.q.sizes());
}

}  // namespace
}  // namespace osp
