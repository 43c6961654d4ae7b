// Every fused operator against its reference twin (values and gradients), against finite
// differences, and every instruction set's row kernels against the portable ones.
#include "osp/ops/fused.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <limits>
#include <vector>

#include "osp/ops/attention.h"
#include "osp/ops/isa.h"
#include "osp/ops/kernels.h"

namespace osp {
namespace {

using Operator = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// One operator with its twin and the shapes of its differentiable inputs.
struct Case {
  const char* name;
  Operator fast, reference;
  std::vector<std::vector<int64_t>> shapes;
};

// Token ids [2, 6] below 5, some of them repeated.
at::Tensor some_ids() { return at::arange(12).remainder(5).view({2, 6}); }

std::vector<Case> cases() {
  const RopeTables tables = make_rope_tables(16, 8, 10000.0);
  const auto attention_inputs = [](const std::vector<at::Tensor>& x) {
    return causal_attention(x[0], x[1], x[2]);
  };
  const auto attention_twin = [](const std::vector<at::Tensor>& x) {
    return causal_attention_reference(x[0], x[1], x[2], {});
  };
  return {
      {"rms_norm without gain",
       [](const auto& x) { return rms_norm(x[0], {}, 1e-5).value; },
       [](const auto& x) { return rms_norm_reference(x[0], {}, 1e-5); },
       {{3, 7, 48}}},
      {"add_rms_norm",
       [](const auto& x) {
         const auto [r, y] = add_rms_norm(x[0], x[1], {}, 1e-5);
         return at::cat({r, y.value}, -1);
       },
       [](const auto& x) {
         const at::Tensor r = x[0] + x[1];
         return at::cat({r, rms_norm_reference(r, {}, 1e-5)}, -1);
       },
       {{300, 33}, {300, 33}}},
      {"rope",
       [=](const auto& x) { return rope(x[0], tables, 3); },
       [=](const auto& x) { return rope_reference(x[0], tables, 3); },
       {{2, 9, 3, 8}}},
      {"split_rope",
       [=](const auto& x) {
         const auto [q, k, v] = split_rope(x[0], 4, 2, tables, 0);
         return at::cat({q, k, v}, 2);
       },
       [=](const auto& x) {
         const at::Tensor split = x[0].view({2, 6, 8, 8});
         return at::cat({rope_reference(split.narrow(2, 0, 6), tables, 0), split.narrow(2, 6, 2)},
                        2);
       },
       {{2, 6, 64}}},
      {"swiglu",
       [](const auto& x) { return swiglu(x[0]).value; },
       [](const auto& x) { return swiglu_reference(x[0]); },
       {{5, 3, 70}}},
      {"causal_attention, grouped heads",
       attention_inputs,
       attention_twin,
       {{2, 9, 4, 16}, {2, 9, 2, 16}, {2, 9, 2, 16}}},
      {"causal_attention within documents",
       [](const auto& x) {
         return causal_attention(x[0], x[1], x[2],
                                 {{}, document_mask(some_ids().floor_divide(3), at::kFloat)});
       },
       [](const auto& x) {
         return causal_attention_reference(x[0], x[1], x[2],
                                           document_mask(some_ids().floor_divide(3), at::kFloat));
       },
       {{2, 6, 2, 16}, {2, 6, 2, 16}, {2, 6, 2, 16}}},
  };
}

std::vector<at::Tensor> random_inputs(const Case& c, at::ScalarType type) {
  std::vector<at::Tensor> inputs;
  for (const auto& shape : c.shapes) {
    inputs.push_back(at::randn(shape).to(type).requires_grad_(true));
  }
  return inputs;
}

// Largest |a − b| over the largest |b|.
double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().to(at::kDouble), y = b.detach().to(at::kDouble);
  return ((x - y).abs().max() / y.abs().max().clamp_min(1e-30)).item<double>();
}

std::vector<at::Tensor> gradients(const at::Tensor& y, const at::Tensor& dy,
                                  const std::vector<at::Tensor>& inputs) {
  return torch::autograd::grad({y}, inputs, {dy});
}

TEST(FusedOperators, EqualTheirReferenceTwins) {
  at::manual_seed(1);
  for (const Case& c : cases()) {
    const auto inputs = random_inputs(c, at::kFloat);
    const at::Tensor fast = c.fast(inputs), reference = c.reference(inputs);
    // fp32 sums of at most a few hundred terms in another order.
    EXPECT_LT(relative_error(fast, reference), 2e-6) << c.name;
    const at::Tensor dy = at::randn(reference.sizes());
    const auto dx = gradients(fast, dy, inputs), expected = gradients(reference, dy, inputs);
    for (size_t i = 0; i < dx.size(); ++i) {
      EXPECT_LT(relative_error(dx[i], expected[i]), 1e-5) << c.name << " gradient " << i;
    }
  }
}

TEST(FusedOperators, InBf16StayWithinItsRounding) {
  at::manual_seed(2);
  for (const Case& c : cases()) {
    const auto inputs = random_inputs(c, at::kBFloat16);
    std::vector<at::Tensor> wide;
    for (const at::Tensor& x : inputs) wide.push_back(x.detach().to(at::kFloat));
    if (std::string(c.name) == "causal_attention within documents") continue;  // its mask is fp32
    // One rounding to 8 bits of mantissa in the output, a few inside (probabilities, r = x +
    // branch).
    EXPECT_LT(relative_error(c.fast(inputs), c.reference(wide)), 0.02) << c.name;
  }
}

TEST(FusedOperators, GradientsEqualFiniteDifferences) {
  at::manual_seed(3);
  for (const Case& c : cases()) {
    const auto inputs = random_inputs(c, at::kFloat);
    const at::Tensor y = c.fast(inputs);
    const at::Tensor dy = at::randn(y.sizes());
    const auto dx = gradients(y, dy, inputs);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const at::Tensor direction = at::randn(inputs[i].sizes());
      const double step = 3e-3;
      const auto value = [&](double scale) {
        auto moved = inputs;
        moved[i] = (inputs[i].detach() + direction * scale);
        return (c.fast(moved).detach().to(at::kDouble) * dy.to(at::kDouble)).sum().item<double>();
      };
      const double numeric = (value(step) - value(-step)) / (2 * step);
      const double analytic =
          (dx[i].to(at::kDouble) * direction.to(at::kDouble)).sum().item<double>();
      const double scale = std::max(1.0, std::abs(analytic));
      // Central differences: error step² · third derivative plus fp32 rounding 1e-7 / step per
      // term.
      EXPECT_NEAR(numeric, analytic, 5e-3 * scale) << c.name << " input " << i;
    }
  }
}

TEST(RmsNorm, AddsGainGradientsInFp32) {
  at::manual_seed(4);
  for (const int64_t gains : {int64_t{1}, int64_t{40}}) {
    const at::Tensor x = at::randn({500, 40}).requires_grad_(true);
    const at::Tensor gain = (at::randn({gains}) + 1).requires_grad_(true);
    const at::Tensor dy = at::randn({500, 40});
    const auto expected = gradients(rms_norm_reference(x, gain, 1e-5), dy, {x, gain});
    const WeightRef ref{gain.detach(), at::ones({gains})};
    const auto dx = gradients(rms_norm(x, ref, 1e-5).value, dy, {x});
    EXPECT_LT(relative_error(dx[0], expected[0]), 1e-5);
    // 20,000 products summed in blocks; the ones that were there before must remain.
    EXPECT_LT(relative_error(ref.gradient - 1, expected[1]), 2e-5) << gains;
  }
}

TEST(Linear, AccumulatesWeightGradientsOverMicroBatches) {
  at::manual_seed(5);
  const at::Tensor w = at::randn({24, 16}), x = at::randn({30, 16}).requires_grad_(true);
  const WeightRef ref{w, at::zeros({24, 16})};
  const at::Tensor dy = at::randn({30, 24});
  for (int half = 0; half < 2; ++half) {
    const at::Tensor part = x.detach().narrow(0, half * 15, 15).requires_grad_(true);
    gradients(linear(part, ref), dy.narrow(0, half * 15, 15), {part});
  }
  EXPECT_LT(relative_error(ref.gradient, dy.t().matmul(x)), 2e-6);
}

// Each kind of input that is not kept, made of random operands.
std::vector<std::pair<const char*, std::function<Activation(const at::Tensor&)>>> made_inputs(
    at::ScalarType type, int64_t channels) {
  const at::Tensor branch = at::randn({9, channels}).to(type);
  const WeightRef one{at::randn({1}) + 2, at::zeros({1})};
  const WeightRef each{at::randn({channels}), at::zeros({channels})};
  const auto norm = [](WeightRef gain) {
    return [gain](const at::Tensor& x) { return rms_norm(x, gain, 1e-5); };
  };
  return {{"Simple RMSNorm", norm({})},
          {"SSNorm", norm(one)},
          {"RMSNorm", norm(each)},
          {"sum and RMSNorm",
           [=](const at::Tensor& x) { return std::get<1>(add_rms_norm(x, branch, each, 1e-5)); }},
          {"SwiGLU", [](const at::Tensor& x) {
             return swiglu(at::cat({x, x * 0.5}, -1));
           }}};
}

TEST(Linear, MakesItsInputAgainToTheSameBits) {
  at::manual_seed(12);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t channels : {1, 40, 129}) {
      const at::Tensor x = at::randn({9, channels}).to(type).requires_grad_(true);
      const at::Tensor w = at::randn({7, channels}).to(type), dy = at::randn({9, 7}).to(type);
      for (const auto& [name, make] : made_inputs(type, channels)) {
        const WeightRef kept{w, at::zeros({7, channels})}, again{w, at::zeros({7, channels})};
        const Activation input = make(x);
        ASSERT_NE(input.origin, Activation::Origin::none) << name;
        const at::Tensor y = linear(input, again);
        // Nobody else holds the input, so it is gone with `input`.
        EXPECT_EQ(input.value.use_count(), 1u) << name;
        const at::Tensor dx = gradients(y, dy, {x})[0];
        const Activation same = make(x);
        const at::Tensor expected_y = linear(same.value, kept);
        EXPECT_GT(same.value.use_count(), 1u) << name;
        EXPECT_TRUE(y.equal(expected_y)) << name << " " << channels;
        EXPECT_TRUE(dx.equal(gradients(expected_y, dy, {x})[0])) << name << " " << channels;
        EXPECT_TRUE(again.gradient.equal(kept.gradient)) << name << " " << channels;
        EXPECT_GT(again.gradient.abs().max().item<float>(), 0) << name;
      }
    }
  }
}

TEST(Linear, TwoLayersMayReadOneInput) {
  at::manual_seed(13);
  const at::Tensor x = at::randn({9, 24}).requires_grad_(true), dy = at::randn({9, 7});
  const WeightRef first{at::randn({7, 24}), {}}, second{at::randn({7, 24}), {}};
  for (const auto& [name, make] : made_inputs(at::kFloat, 24)) {
    const Activation input = make(x), same = make(x);
    const auto dx = gradients(linear(input, first) + linear(input, second), dy, {x});
    const auto expected =
        gradients(linear(same.value, first) + linear(same.value, second), dy, {x});
    // Sums of two gradients in another order.
    EXPECT_LT(relative_error(dx[0], expected[0]), 1e-6) << name;
  }
}

TEST(Linear, TakesNoTokens) {
  const WeightRef weight{at::randn({7, 40}), at::zeros({7, 40})};
  const WeightRef gain{at::ones({1}), at::zeros({1})};
  const at::Tensor x = at::zeros({0, 40}).requires_grad_(true);
  const at::Tensor y = linear(rms_norm(x, gain, 1e-5), weight);
  EXPECT_EQ(y.sizes(), at::IntArrayRef({0, 7}));
  EXPECT_EQ(gradients(y, at::zeros({0, 7}), {x})[0].sizes(), x.sizes());
  EXPECT_EQ(weight.gradient.abs().max().item<float>(), 0);
}

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

TEST(LinearCrossEntropy, EqualsItsReferenceAndSkipsNegativeTargets) {
  at::manual_seed(6);
  // 700 rows of 20,011 logits: several chunks, an odd vocabulary.
  const at::Tensor w = at::randn({20011, 16}).requires_grad_(true);
  const at::Tensor h = at::randn({700, 16}).requires_grad_(true);
  at::Tensor targets = at::randint(0, 20011, {700}, at::kLong);
  targets.narrow(0, 100, 50).fill_(-1);
  const at::Tensor reference = linear_cross_entropy_reference(h, w, targets);
  const auto expected = gradients(reference, at::ones({}), {h, w});
  const WeightRef ref{w.detach(), at::zeros({20011, 16})};
  const at::Tensor loss = linear_cross_entropy(h, ref, targets, 0.5, true);
  EXPECT_LT(relative_error(loss, reference), 1e-6);
  const auto dh = gradients(loss, at::ones({}), {h});
  EXPECT_LT(relative_error(dh[0] * 2, expected[0]), 1e-5);
  EXPECT_LT(relative_error(ref.gradient * 2, expected[1]), 1e-5);
}

// fp64 has no kernels: what it takes is what every device without them takes.
TEST(FusedOperators, WithoutKernelsFillTheSameGradients) {
  at::manual_seed(5);
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const at::Tensor h = at::randn({7, 16}, wide).requires_grad_();
  const at::Tensor w = at::randn({50, 16}, wide).requires_grad_();
  const at::Tensor targets = at::tensor(std::vector<int64_t>{3, -1, 49, 0, 7, 3, -1});
  const at::Tensor reference = linear_cross_entropy_reference(h, w, targets);
  const auto expected = gradients(reference, at::ones({}, wide), {h, w});
  const WeightRef head{w.detach(), at::zeros({50, 16}, wide)};
  const at::Tensor loss = linear_cross_entropy(h, head, targets, 0.5, true);
  EXPECT_LT(relative_error(loss, reference), 1e-6);  // reported in fp32
  EXPECT_LT(relative_error(gradients(loss, at::ones({}), {h})[0] * 2, expected[0]), 1e-12);
  EXPECT_LT(relative_error(head.gradient * 2, expected[1]), 1e-12);

  for (const int64_t gains : {1, 16}) {
    const at::Tensor value = at::randn({gains}, wide).requires_grad_();
    const at::Tensor dy = at::randn({7, 16}, wide);
    const auto of_gain = gradients(rms_norm_reference(h.detach() + 1, value, 1e-5), dy, {value})[0];
    const WeightRef gain{value.detach(), at::zeros({gains}, wide)};
    const at::Tensor x = (h.detach() + 1).requires_grad_();
    gradients(rms_norm(x, gain, 1e-5).value, dy, {x});
    EXPECT_LT(relative_error(gain.gradient, of_gain), 1e-12) << gains;
    gradients(std::get<1>(add_rms_norm(x, at::zeros_like(x), gain, 1e-5)).value, dy, {x});
    EXPECT_LT(relative_error(gain.gradient, of_gain * 2), 1e-12) << gains;
  }

  const at::Tensor anchor = at::zeros({}, wide).requires_grad_();
  const at::Tensor ids = at::tensor(std::vector<int64_t>{4, 0, 4, 2});
  const WeightRef table{at::randn({5, 3}, wide), at::zeros({5, 3}, wide)};
  const at::Tensor dy = at::randn({4, 3}, wide);
  embedding(ids, table, anchor).backward(dy);
  EXPECT_LT(relative_error(table.gradient, at::zeros({5, 3}, wide).index_add(0, ids, dy)), 1e-12);
}

TEST(LinearCrossEntropy, LetsNonFiniteValuesThrough) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      at::Tensor h = at::ones({2, 4}).to(type);
      h[1][2] = bad;
      const at::Tensor w = at::ones({50, 4}).to(type), targets = at::zeros({2}, at::kLong);
      const float loss = linear_cross_entropy(h, {w, {}}, targets, 1.0, false).item<float>();
      EXPECT_FALSE(std::isfinite(loss)) << bad;
    }
  }
}

// Calls visit(name, table) for every level that this CPU has.
void for_each_table(const std::function<void(const kernels::Kernels&)>& visit) {
  visit(kernels::row_kernels_portable());
  if (detect_isa() >= Isa::avx2) visit(kernels::row_kernels_avx2());
  if (detect_isa() >= Isa::avx512) visit(kernels::row_kernels_avx512());
}

TEST(Kernels, EqualThePortableOnesOnEveryInstructionSet) {
  at::manual_seed(7);
  const int64_t rows = 5, D = 129;
  const at::Tensor x = at::randn({rows, D}), dy = at::randn({rows, D}), gain = at::randn({D});
  const at::Tensor wide = at::randn({rows, 2 * D}) * 20;
  for_each_table([&](const kernels::Kernels& table) {
    std::vector<at::Tensor> results[2];
    for (int side = 0; side < 2; ++side) {
      const auto& k = (side == 0 ? kernels::row_kernels_portable() : table).f32;
      at::Tensor y = at::zeros({rows, D}), s = at::zeros({rows}), dx = at::zeros({rows, D});
      at::Tensor dg = at::zeros({D}), out = at::zeros({rows, D}), z = wide.clone();
      at::Tensor losses = at::zeros({rows});
      k.rms_norm_forward(x.data_ptr<float>(), nullptr, nullptr, y.data_ptr<float>(),
                         s.data_ptr<float>(), gain.data_ptr<float>(), 1, rows, D, 1e-5f);
      at::Tensor again = at::zeros({rows, D});
      for (const auto& [values, stride] : {std::pair<const float*, int64_t>(nullptr, 0),
                                           {gain.data_ptr<float>(), 0},
                                           {gain.data_ptr<float>(), 1}}) {
        k.rms_norm_forward(x.data_ptr<float>(), nullptr, nullptr, y.data_ptr<float>(),
                           s.data_ptr<float>(), values, stride, rows, D, 1e-5f);
        k.rms_norm_again(x.data_ptr<float>(), s.data_ptr<float>(), values, stride,
                         again.data_ptr<float>(), rows, D);
        EXPECT_TRUE(again.equal(y)) << table.name << " " << stride;
      }
      k.rms_norm_backward(x.data_ptr<float>(), s.data_ptr<float>(), gain.data_ptr<float>(), 1,
                          dy.data_ptr<float>(), nullptr, dx.data_ptr<float>(), dg.data_ptr<float>(),
                          rows, D);
      k.swiglu_forward(wide.data_ptr<float>(), out.data_ptr<float>(), rows, D);
      at::Tensor d_wide = at::zeros({rows, 2 * D}), d_wide_alone = at::zeros({rows, 2 * D});
      at::Tensor out_again = at::zeros({rows, D});
      k.swiglu_backward(wide.data_ptr<float>(), dy.data_ptr<float>(), d_wide.data_ptr<float>(),
                        out_again.data_ptr<float>(), rows, D);
      k.swiglu_backward(wide.data_ptr<float>(), dy.data_ptr<float>(),
                        d_wide_alone.data_ptr<float>(), nullptr, rows, D);
      EXPECT_TRUE(out_again.equal(out)) << table.name;
      EXPECT_TRUE(d_wide.equal(d_wide_alone)) << table.name;
      const std::vector<int64_t> targets = {0, 5, -1, 200, 2 * D - 1};
      k.cross_entropy(z.data_ptr<float>(), targets.data(), losses.data_ptr<float>(), rows, 2 * D,
                      true, 1.0f);
      results[side] = {y, s, dx, dg, out, d_wide, z, losses};
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
      // Sums in another order and fused multiply-adds: a few units of fp32's last place.
      EXPECT_LT(relative_error(results[1][i], results[0][i]), 2e-6) << table.name << " " << i;
    }
  });
}

TEST(Kernels, ConvertBf16AsTheTensorLibraryDoes) {
  // accumulate() reads bf16 exactly; swiglu's store rounds: compare with a conversion of the fp32
  // result by the tensor library on values that include ties, infinities and NaN.
  at::Tensor x = at::randn({1, 64}) * 3;
  x[0][0] = std::numeric_limits<float>::infinity();
  x[0][1] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor rounded = x.to(at::kBFloat16);
  for_each_table([&](const kernels::Kernels& table) {
    at::Tensor sum = at::zeros({64});
    table.bf16.accumulate(sum.data_ptr<float>(),
                          static_cast<const kernels::Bf16*>(rounded.const_data_ptr()), 64);
    EXPECT_TRUE(sum.narrow(0, 2, 62).equal(rounded.to(at::kFloat)[0].narrow(0, 2, 62)));
    EXPECT_TRUE(std::isinf(sum[0].item<float>()));
    EXPECT_TRUE(std::isnan(sum[1].item<float>()));
    // cos = 1, sin = 0: rope copies, through fp32 and back.
    at::Tensor copy = at::zeros({1, 64}).to(at::kBFloat16);
    const at::Tensor one = at::ones({32}), zero = at::zeros({32});
    table.bf16.rope_token(static_cast<const kernels::Bf16*>(rounded.const_data_ptr()), 64,
                          static_cast<kernels::Bf16*>(copy.mutable_data_ptr()), 64,
                          one.data_ptr<float>(), zero.data_ptr<float>(), 1.0f, 1, 64);
    EXPECT_TRUE(copy.narrow(1, 2, 30).equal(rounded.narrow(1, 2, 30)));
  });
}

}  // namespace
}  // namespace osp
