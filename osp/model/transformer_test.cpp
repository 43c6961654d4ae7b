#include "osp/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

namespace osp {
namespace {

ParameterStore random_store(const StoreOptions& options = {}) {
  ModelConfig config;
  config.layers = 3;
  config.width = 32;
  config.heads = 4;
  config.kv_heads = 2;
  config.inner = 48;
  config.vocabulary = 40;
  config.init_std = 0.2;
  ParameterStore store = make_parameters(resolved(config), options);
  initialize_parameters(store, 3);
  return store;
}

at::Tensor some_tokens() { return at::arange(22, at::kLong).mul(7).remainder(40).view({2, 11}); }

// Notes every point it is shown and doubles the residual state after block 1.
struct NotingTap : Tap {
  std::vector<std::pair<TapPoint, int64_t>> seen;
  bool wants(TapPoint, int64_t) const override { return true; }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    seen.emplace_back(point, layer);
    return point == TapPoint::residual && layer == 1 ? x * 2 : x;
  }
};

at::Tensor logits_by_pieces(const ParameterStore& store, const at::Tensor& tokens_BT,
                            const ForwardOptions& options = {}) {
  at::Tensor x = forward_embedding(store, tokens_BT, options);
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    x = forward_block(store, layer, x, options);
  }
  return forward_head(store, x, options);
}

// Multiplies what passes through each linear layer: Σ dyᵀ x, the layer's gradient.
struct GradientTap : Tap {
  std::map<int64_t, at::Tensor> inputs, gradients;
  bool wants(TapPoint, int64_t) const override { return false; }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return x; }
  bool wants_linear() const override { return true; }
  void linear_input(int64_t parameter, const at::Tensor& x) override { inputs[parameter] = x; }
  void linear_output_gradient(int64_t parameter, const at::Tensor& dy) override {
    gradients[parameter] = at::matmul(dy.t(), inputs.at(parameter));
  }
};

TEST(Transformer, LinearTapsSeeWhatEveryMatrixsGradientIsMadeOf) {
  ParameterStore store = random_store({.gradients = true});
  GradientTap tap;
  ForwardOptions options;
  options.training = true;
  options.tap = &tap;
  forward_loss_sum(store, some_tokens(), some_tokens(), options).backward();
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const bool linear = store.specs[i].kind == ParameterKind::matrix ||
                        store.specs[i].kind == ParameterKind::embedding_projection;
    ASSERT_EQ(tap.gradients.contains(int64_t(i)), linear) << store.specs[i].name;
    if (!linear) continue;
    const at::Tensor expected = store.gradient(int64_t(i));
    const at::Tensor difference = tap.gradients.at(int64_t(i)) - expected;
    // The same fp32 product of 22 tokens.
    EXPECT_LT(difference.norm().item<double>(), 1e-6 * expected.norm().item<double>());
  }
}

TEST(Transformer, PiecesGiveTheLogitsOfTheWholePass) {
  for (const bool bf16 : {false, true}) {
    const ParameterStore store = random_store({.bf16 = bf16, .group = {}});
    // The same operations on the same numbers: adding a branch alone or within the next norm rounds
    // alike.
    EXPECT_TRUE(
        at::equal(logits_by_pieces(store, some_tokens()), forward_logits(store, some_tokens())));
  }
}

TEST(Transformer, PiecesShowTheTapsOfTheWholePass) {
  const ParameterStore store = random_store();
  NotingTap whole, pieces;
  ForwardOptions options;
  options.tap = &whole;
  const at::Tensor expected = forward_logits(store, some_tokens(), options);
  options.tap = &pieces;
  const at::Tensor found = logits_by_pieces(store, some_tokens(), options);
  // The whole pass shows a block's last state after the norm that follows was computed; the order
  // of the points is the same.
  EXPECT_EQ(whole.seen, pieces.seen);
  EXPECT_TRUE(at::equal(found, expected));
  EXPECT_FALSE(at::equal(found, forward_logits(store, some_tokens())));
}

TEST(Transformer, PiecesReadTheCacheAndLeaveItsLengthToTheCaller) {
  const ParameterStore store = random_store();
  KvCache cache = make_kv_cache(store, 2, 11);
  ForwardOptions options;
  options.cache = &cache;
  const at::Tensor first = logits_by_pieces(store, some_tokens().narrow(1, 0, 6), options);
  EXPECT_EQ(cache.length, 0);
  cache.length = 6;
  const at::Tensor second = logits_by_pieces(store, some_tokens().narrow(1, 6, 5), options);
  const at::Tensor whole = forward_logits(store, some_tokens());
  // fp32 products in another shape: the order of sums differs.
  EXPECT_LT((first - whole.narrow(1, 0, 6)).abs().max().item<double>(), 1e-5);
  EXPECT_LT((second - whole.narrow(1, 6, 5)).abs().max().item<double>(), 1e-5);
}

TEST(Transformer, BlockIsDifferentiableInItsInputWithoutGradientBanks) {
  const ParameterStore store = random_store();
  ForwardOptions options;
  options.training = true;
  const at::Tensor x = forward_embedding(store, some_tokens()).detach().requires_grad_(true);
  forward_block(store, 1, x, options).pow(2).sum().backward();
  ASSERT_TRUE(x.grad().defined());

  // Central differences along the gradient: the slope is its squared length.
  const at::Tensor step = x.grad() / x.grad().norm() * 1e-2;
  const auto value = [&](const at::Tensor& at_x) {
    return forward_block(store, 1, at_x).pow(2).sum().item<double>();
  };
  const at::Tensor start = x.detach();
  const double slope = (value(start + step) - value(start - step)) / 2e-2;
  // fp32 sums of about a thousand squares and the third derivative: 1e-3 relative.
  EXPECT_NEAR(slope, x.grad().norm().item<double>(), 1e-3 * slope);
}

}  // namespace
}  // namespace osp
