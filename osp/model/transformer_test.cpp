#include "osp/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/test_error.h"
#include "osp/ops/fused.h"

namespace osp {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.layers = 3;
  config.width = 32;
  config.heads = 4;
  config.kv_heads = 2;
  config.inner = 48;
  config.vocabulary = 40;
  config.init_std = 0.2;
  return config;
}

ParameterStore random_store(const StoreOptions& options = {},
                            const ModelConfig& config = small_config()) {
  ParameterStore store = make_parameters(resolved_config(config), options);
  initialize_parameters(store, 3);
  return store;
}

ModelConfig outlier_protected() {
  ModelConfig config = small_config();
  config.norm = "none";
  config.qk_norm = config.embedding_norm = config.branch_scale = true;
  return config;
}

// Weights that no initial value has: gains and branch scales all different.
void spread_gains(ParameterStore& store) {
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind != ParameterKind::gain) continue;
    store.master(int64_t(i)).mul_(0.7 + 0.05 * double(i));
  }
  sync_compute(store);
}

void widen(ParameterStore& store) {
  for (Bank& bank : store.banks) bank.compute = bank.master = bank.master.to(at::kDouble);
}

// The Outlier Protected block written out for one sequence [T], attention head by head.
class WrittenOut {
 public:
  explicit WrittenOut(const ParameterStore& store) : store_(store), c_(store.config) {}

  at::Tensor logits(const at::Tensor& tokens_T) const {
    const int64_t T = tokens_T.size(0);
    at::Tensor x = at::matmul(weight("model.embed_tokens.weight").index_select(0, tokens_T),
                              weight("model.embed_proj.weight").t());
    x = normed(x, "model.embed_norm.weight");
    const RopeTables rope = make_rope_tables(T, c_.head_size, c_.rope_theta);
    for (int64_t layer = 0; layer < c_.layers; ++layer) {
      const std::string block = fmt::format("model.layers.{}.", layer);
      x = x + attention(block + "self_attn.", x, rope) * weight(block + "self_attn.branch_scale");
      const at::Tensor gate = product(x, block + "mlp.gate_proj");
      const at::Tensor inner = gate / (1.0 + (-gate).exp()) * product(x, block + "mlp.up_proj");
      x = x + product(inner, block + "mlp.down_proj") * weight(block + "mlp.branch_scale");
    }
    x = at::matmul(normed(x, "model.norm.weight"), weight("lm_head_proj.weight").t());
    return at::matmul(x, weight("lm_head.weight").t());
  }

 private:
  at::Tensor weight(const std::string& name) const {
    const int64_t i = store_.find(name);
    OSP_CHECK(i >= 0, "no {}", name);
    return store_.master(i);
  }
  at::Tensor product(const at::Tensor& x, const std::string& name) const {
    return at::matmul(x, weight(name + ".weight").t());
  }
  at::Tensor normed(const at::Tensor& x, const std::string& gain) const {
    return x / (x.square().mean(-1, true) + c_.norm_eps).sqrt() * weight(gain);
  }
  at::Tensor rotated(const at::Tensor& x_TK, const RopeTables& rope) const {
    const int64_t half = c_.head_size / 2;
    const at::Tensor a = x_TK.narrow(1, 0, half), b = x_TK.narrow(1, half, half);
    return at::cat({a * rope.cos - b * rope.sin, b * rope.cos + a * rope.sin}, 1);
  }
  at::Tensor attention(const std::string& part, const at::Tensor& x, const RopeTables& rope) const {
    const int64_t K = c_.head_size, group = c_.heads / c_.kv_heads, T = x.size(0);
    const at::Tensor future = at::ones({T, T}, at::kBool).triu(1);
    std::vector<at::Tensor> heads;
    for (int64_t head = 0; head < c_.heads; ++head) {
      const auto rows = [&](const char* name, int64_t of) {
        return product(x, part + name).narrow(1, of * K, K);
      };
      const at::Tensor q = rotated(normed(rows("q_proj", head), part + "q_norm.weight"), rope);
      const at::Tensor k =
          rotated(normed(rows("k_proj", head / group), part + "k_norm.weight"), rope);
      const at::Tensor scores = at::matmul(q, k.t()) / std::sqrt(double(K));
      const at::Tensor share = scores.masked_fill(future, -INFINITY).softmax(-1);
      heads.push_back(at::matmul(share, rows("v_proj", head / group)));
    }
    return product(at::cat(heads, 1), part + "o_proj");
  }

  const ParameterStore& store_;
  const ModelConfig& c_;
};

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
  size_t layers = 0;  // that linear_input named
  bool wants(TapPoint, int64_t) const override { return false; }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return x; }
  bool wants_linear() const override { return true; }
  void linear_input(std::span<const int64_t> parameters, const at::Tensor& x) override {
    for (const int64_t parameter : parameters) inputs[parameter] = x;
    layers += parameters.size();
  }
  void linear_output_gradient(int64_t parameter, const at::Tensor& dy) override {
    gradients[parameter] = at::matmul(dy.t(), inputs.at(parameter));
  }
};

// Adds the gradients of the loss of predicting `targets` into the store's banks.
void add_gradients(const ParameterStore& store, const at::Tensor& targets, Tap* tap,
                   bool recompute_blocks = false) {
  ForwardOptions options;
  options.training = true;
  options.recompute_blocks = recompute_blocks;
  options.tap = tap;
  forward_loss_sum(store, some_tokens(), targets, options).backward();
}

// That loss of a model in fp64, so that small steps can be taken.
double loss_in_fp64(const ParameterStore& wide, const at::Tensor& targets, Tap* tap) {
  ForwardOptions options;
  options.tap = tap;
  return at::nll_loss(forward_logits(wide, some_tokens(), options).log_softmax(-1).flatten(0, 1),
                      targets.flatten(), {}, at::Reduction::Sum)
      .item<double>();
}

TEST(Transformer, LinearTapsSeeWhatEveryMatrixsGradientIsMadeOf) {
  ParameterStore store = random_store({.gradients = true});
  GradientTap tap;
  add_gradients(store, some_tokens(), &tap);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const bool linear = store.specs[i].kind == ParameterKind::matrix ||
                        store.specs[i].kind == ParameterKind::embedding_projection;
    ASSERT_EQ(tap.gradients.contains(int64_t(i)), linear) << store.specs[i].name;
    if (!linear) continue;
    const at::Tensor expected = store.gradient(int64_t(i));
    const at::Tensor difference = tap.gradients.at(int64_t(i)) - expected;
    // Both are fp32 products of the same 22 tokens.
    EXPECT_LT(difference.norm().item<double>(), 1e-6 * expected.norm().item<double>());
  }
}

TEST(Transformer, LinearTapsGetAnInputOnceForAllLayersThatReadIt) {
  for (const int64_t kv_heads : {2, 4}) {
    ModelConfig config = small_config();
    config.kv_heads = kv_heads;
    ParameterStore store = make_parameters(resolved_config(config), {.gradients = true});
    initialize_parameters(store, 3);
    GradientTap tap;
    add_gradients(store, some_tokens(), &tap);
    const auto input = [&](ParameterRole role) { return tap.inputs.at(store.find(role, 0)); };
    EXPECT_TRUE(input(ParameterRole::query).is_same(input(ParameterRole::key)));
    EXPECT_TRUE(input(ParameterRole::query).is_same(input(ParameterRole::value)));
    EXPECT_TRUE(input(ParameterRole::gate).is_same(input(ParameterRole::up)));
  }
}

ModelConfig with(void (*change)(ModelConfig&)) {
  ModelConfig config = small_config();
  change(config);
  return config;
}

// Blocks of every build are computed a second time; a tap sees their points then too, and each
// linear layer once.
TEST(Transformer, BlocksThatAreComputedAgainShowTapsTheirPointsTwice) {
  const std::vector<ModelConfig> configs = {
      small_config(), outlier_protected(), with([](ModelConfig& c) { c.parallel = true; }),
      with([](ModelConfig& c) { c.parallel = c.shared_norm = true; }), with([](ModelConfig& c) {
        c.norm_after = true;
        c.qkv_bias = c.output_bias = c.mlp_bias = true;
      })};
  for (size_t i = 0; i < configs.size(); ++i) {
    SCOPED_TRACE(i);
    std::vector<at::Tensor> kept;
    std::vector<std::pair<TapPoint, int64_t>> seen;
    for (const bool again : {false, true}) {
      ParameterStore store = random_store({.gradients = true}, configs[i]);
      NotingTap points;
      add_gradients(store, some_tokens(), &points, again);
      for (size_t b = 0; b < store.banks.size(); ++b) {
        if (again) {
          EXPECT_TRUE(store.banks[b].gradient.equal(kept[b])) << store.banks[b].name;
        }
        kept.push_back(store.banks[b].gradient.clone());
      }
      if (again) {
        const auto count = [](const auto& all, TapPoint point) {
          return std::count_if(all.begin(), all.end(),
                               [&](const auto& each) { return each.first == point; });
        };
        for (const TapPoint point : {TapPoint::attention_input, TapPoint::mlp_product}) {
          EXPECT_EQ(count(points.seen, point), 2 * count(seen, point));
        }
        EXPECT_EQ(count(points.seen, TapPoint::final_state), 1);
      }
      seen = points.seen;
      GradientTap linears;
      add_gradients(store, some_tokens(), &linears, again);
      EXPECT_EQ(linears.layers, linears.gradients.size());
    }
  }
}

// The promise of blocks_done: at each call the gradients of the block and of all behind it are
// those of the end.
TEST(Transformer, BlocksAreDoneWhenTheirGradientsAreComplete) {
  const std::vector<ModelConfig> configs = {
      small_config(), outlier_protected(), with([](ModelConfig& c) { c.parallel = true; }),
      with([](ModelConfig& c) { c.norm_after = true; }), with([](ModelConfig& c) {
        c.tied = true;
        c.embedding_projection = false;
      })};
  for (size_t i = 0; i < configs.size() * 2; ++i) {
    SCOPED_TRACE(i);
    ModelConfig config = configs[i / 2];
    config.layers = 4;
    ParameterStore store = random_store({.gradients = true}, resolved_config(config));
    std::vector<int64_t> layers;
    std::vector<std::pair<int64_t, at::Tensor>> seen;  // parameter, its gradient then
    ForwardOptions options;
    options.training = true;
    options.recompute_blocks = i % 2 == 1;
    options.blocks_done = [&](int64_t layer) {
      layers.push_back(layer);
      bool behind = false;
      for (size_t p = 0; p < store.specs.size(); ++p) {
        behind = behind || store.specs[p].layer == layer;
        if (behind) seen.emplace_back(int64_t(p), store.gradient(int64_t(p)).clone());
      }
    };
    forward_loss_sum(store, some_tokens(), some_tokens(), options).backward();
    EXPECT_EQ(layers, (std::vector<int64_t>{3, 2, 1}));
    for (const auto& [parameter, gradient] : seen) {
      EXPECT_TRUE(gradient.equal(store.gradient(parameter))) << store.specs[size_t(parameter)].name;
    }
    // The block in front of it has nothing yet.
    EXPECT_GT(store.gradient(store.find(ParameterRole::down, 0)).abs().sum().item<double>(), 0);
  }
}

// Halves what enters linear layers; the gradients of their weights must be of the halves.
struct HalvingTap : Tap {
  bool wants(TapPoint point, int64_t) const override {
    return point == TapPoint::attention_input || point == TapPoint::mlp_input ||
           point == TapPoint::mlp_product || point == TapPoint::final_state;
  }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return x * 0.5; }
};

TEST(Transformer, GradientsAreOfWhatATapPutInPlaceOfAnInput) {
  ParameterStore store = random_store({.gradients = true});
  HalvingTap tap;
  const at::Tensor targets = some_tokens().roll(-1, 1);
  add_gradients(store, targets, &tap);
  ParameterStore wide = random_store();
  widen(wide);
  const auto loss = [&] { return loss_in_fp64(wide, targets, &tap); };
  for (const char* name :
       {"model.layers.1.self_attn.v_proj.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.2.mlp.down_proj.weight"}) {
    const int64_t i = wide.find(name);
    const at::Tensor direction = store.gradient(i).to(at::kDouble);
    const double expected = (direction * direction).sum().item<double>();
    const double step = 1e-5 / std::sqrt(expected);
    wide.master(i).add_(direction, step);
    const double above = loss();
    wide.master(i).add_(direction, -2 * step);
    EXPECT_NEAR((above - loss()) / (2 * step), expected, 1e-4 * expected) << name;
    wide.master(i).add_(direction, step);
  }
}

TEST(Transformer, PiecesGiveTheLogitsOfTheWholePass) {
  for (const bool bf16 : {false, true}) {
    for (const ModelConfig& config : {small_config(), outlier_protected()}) {
      const ParameterStore store = random_store({.bf16 = bf16, .group = {}}, config);
      // Both do the same operations on the same numbers: adding a branch alone or within the next
      // norm rounds alike.
      EXPECT_TRUE(
          at::equal(logits_by_pieces(store, some_tokens()), forward_logits(store, some_tokens())));
    }
  }
}

TEST(Transformer, PiecesShowTheTapsOfTheWholePass) {
  for (const ModelConfig& config : {small_config(), outlier_protected()}) {
    const ParameterStore store = random_store({}, config);
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

TEST(Transformer, OutlierProtectedBlocksAreWhatTheirEquationsSay) {
  ParameterStore store = random_store({}, outlier_protected());
  spread_gains(store);
  widen(store);
  const at::Tensor tokens = some_tokens();
  const at::Tensor found = forward_logits(store, tokens);
  for (int64_t row = 0; row < tokens.size(0); ++row) {
    const at::Tensor expected = WrittenOut(store).logits(tokens[row]);
    // fp64 throughout, but for the norms' and branches' scalars in another order of products.
    EXPECT_LT((found[row] - expected).abs().max().item<double>(),
              1e-12 * expected.abs().max().item<double>());
  }
}

TEST(Transformer, BranchScaleGradientsAreSlopesOfTheLoss) {
  ParameterStore store = random_store({.gradients = true}, outlier_protected());
  spread_gains(store);
  const at::Tensor targets = some_tokens().roll(-1, 1);
  add_gradients(store, targets, nullptr);
  ParameterStore wide = random_store({}, outlier_protected());
  spread_gains(wide);
  widen(wide);
  const auto loss = [&] { return loss_in_fp64(wide, targets, nullptr); };
  for (const char* name : {"model.layers.0.self_attn.branch_scale",
                           "model.layers.2.mlp.branch_scale", "model.embed_norm.weight"}) {
    const int64_t i = wide.find(name);
    constexpr double kStep = 1e-5;
    wide.master(i).add_(kStep);
    const double above = loss();
    wide.master(i).sub_(2 * kStep);
    const double slope = (above - loss()) / (2 * kStep);
    wide.master(i).add_(kStep);
    // fp32 sums over 22 tokens of 32 products of both signs.
    EXPECT_NEAR(store.gradient(i).item<double>(), slope, 1e-4 * std::abs(slope) + 1e-5) << name;
  }
}

TEST(Transformer, BranchScalesBeginAtOneOverTheRootOfTheBranches) {
  ParameterStore store = random_store({}, outlier_protected());
  for (const char* part : {"self_attn", "mlp"}) {
    const int64_t i = store.find(fmt::format("model.layers.1.{}.branch_scale", part));
    EXPECT_FLOAT_EQ(store.master(i).item<float>(), 1.0f / std::sqrt(6.0f)) << part;
  }
  ModelConfig given = outlier_protected();
  given.branch_scale_init = 0.2;
  store = random_store({}, given);
  EXPECT_FLOAT_EQ(store.master(store.find("model.layers.2.mlp.branch_scale")).item<float>(), 0.2f);
}

TEST(ModelConfig, OptionsOfTheOutlierProtectedBlockThatContradictOthersAreNamed) {
  const auto refuse = [](const std::vector<std::string>& parts, auto change) {
    ModelConfig config = outlier_protected();
    change(config);
    expect_error(ErrorCode::usage, parts, [&] { resolved_config(config); });
  };
  refuse({"model.norm", "none"}, [](ModelConfig& c) { c.norm_after = true; });
  refuse({"model.norm", "none"}, [](ModelConfig& c) { c.shared_norm = true; });
  refuse({"model.branch_scale = true"}, [](ModelConfig& c) {
    c.norm = "rms";
    c.norm_after = true;
  });
  refuse({"model.embedding_norm = true"}, [](ModelConfig& c) { c.learned_positions = true; });
  refuse({"model.branch_scale_init = 0.5", "model.branch_scale"}, [](ModelConfig& c) {
    c.branch_scale = false;
    c.branch_scale_init = 0.5;
  });
}

}  // namespace
}  // namespace osp
