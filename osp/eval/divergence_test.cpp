#include "osp/eval/divergence.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/log_softmax.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "osp/base/error.h"
#include "osp/eval/perplexity.h"
#include "osp/model/transformer.h"
#include "osp/quant/fake_quant.h"

namespace osp {
namespace {

ParameterStore small_model(uint64_t seed) {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 2;
  config.vocabulary = 40;
  config.context = 16;
  config.init_std = 0.3;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, seed);
  return store;
}

std::vector<int64_t> text() {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 70; ++i) ids.push_back((i * i + 3) % 40);
  return ids;
}

TEST(Divergence, OfAModelWithItselfIsZero) {
  const ParameterStore store = small_model(1);
  const DivergenceResult result = measure_divergence(store, store, text());
  EXPECT_EQ(result.divergence, 0.0);
  EXPECT_EQ(result.same_choice, 1.0);
  EXPECT_EQ(result.tokens, 4 * 15);
}

TEST(Divergence, LossesAreThoseOfThePerplexities) {
  const ParameterStore a = small_model(1), b = small_model(2);
  const DivergenceResult result = measure_divergence(a, b, text());
  // Two ways of summing fp32 logarithms.
  EXPECT_NEAR(result.original_loss, measure_perplexity(a, text()).loss, 1e-5);
  EXPECT_NEAR(result.changed_loss, measure_perplexity(b, text()).loss, 1e-5);
  EXPECT_GT(result.divergence, 0.1);
  EXPECT_LT(result.same_choice, 0.5);
}

TEST(Divergence, GrowsAsBitsFall) {
  const ParameterStore store = small_model(1);
  double last = 0.0;
  for (const char* bits : {"8-8-8", "4-4-4", "2-2-2"}) {
    FakeQuantTap tap(store, parse_bits(bits));
    const double now = measure_divergence(store, store, text(), {.changed_tap = &tap}).divergence;
    EXPECT_GT(now, last) << bits;
    last = now;
  }
}

TEST(Divergence, QuantilesAreThoseOfThePositions) {
  const ParameterStore a = small_model(1), b = small_model(2);
  const std::vector<int64_t> ids = text();
  std::vector<double> positions;
  for (int64_t window = 0; window < 4; ++window) {
    const at::Tensor tokens =
        at::from_blob(const_cast<int64_t*>(ids.data()) + 16 * window, {1, 15}, at::kLong);
    const at::Tensor p = forward_logits(a, tokens)[0].to(at::kDouble).log_softmax(-1);
    const at::Tensor q = forward_logits(b, tokens)[0].to(at::kDouble).log_softmax(-1);
    const at::Tensor divergence = p.exp().mul(p.sub(q)).sum(-1);
    for (int64_t t = 0; t < 15; ++t) positions.push_back(divergence[t].item<double>());
  }
  std::sort(positions.begin(), positions.end());
  const DivergenceResult result = measure_divergence(a, b, ids);
  // Ranks 30, 57 and 60 of 60; fp32 logits.
  EXPECT_NEAR(result.divergence_median, positions[29], 1e-5);
  EXPECT_NEAR(result.divergence_95, positions[56], 1e-5);
  EXPECT_NEAR(result.divergence_99, positions[59], 1e-5);
}

// Multiplies the state behind block 1 by 1 + t / 100 at position t.
class StretchTap : public Tap {
 public:
  bool wants(TapPoint point, int64_t layer) const override {
    return point == TapPoint::residual && layer == 1;
  }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override {
    return x * at::arange(x.size(1), x.options()).div(100).add(1).unsqueeze(-1);
  }
};

TEST(StateError, IsTheMeanOverTokensOfTheRelativeSquaredError) {
  const ParameterStore store = small_model(1);
  StretchTap stretch;
  std::vector<at::Tensor> states;
  DivergenceOptions options{.changed_tap = &stretch, .original_states = &states};
  EXPECT_TRUE(std::isnan(measure_divergence(store, store, text(), options).state_error));
  EXPECT_FALSE(states.empty());
  options.state_error = true;
  // (0² + 1² + … + 14²) / 15 / 100², whatever the sizes of the states; they are fp32.
  EXPECT_NEAR(measure_divergence(store, store, text(), options).state_error, 1015.0 / 15e4, 1e-8);
}

TEST(StateError, OfTwoModelsIsThatOfTheirStatesBehindTheLastBlock) {
  const ParameterStore a = small_model(1), b = small_model(2);
  const std::vector<int64_t> ids = text();
  double sum = 0;
  for (int64_t window = 0; window < 4; ++window) {
    const at::Tensor tokens =
        at::from_blob(const_cast<int64_t*>(ids.data()) + 16 * window, {1, 15}, at::kLong);
    const auto last = [&](const ParameterStore& store) {
      const at::Tensor x = forward_block(store, 0, forward_embedding(store, tokens));
      return forward_block(store, 1, x)[0].to(at::kDouble);
    };
    const at::Tensor h = last(a), off = last(b) - h;
    sum += (off.norm(2, {1}) / h.norm(2, {1})).square().sum().item<double>();
  }
  const DivergenceResult result = measure_divergence(a, b, ids, {.state_error = true});
  EXPECT_NEAR(result.state_error, sum / 60, 1e-5 * sum / 60);  // fp32 states
  EXPECT_EQ(measure_divergence(a, a, ids, {.state_error = true}).state_error, 0.0);
}

TEST(StateError, ChangesNoOtherNumber) {
  const ParameterStore a = small_model(1), b = small_model(2);
  const DivergenceResult plain = measure_divergence(a, b, text()),
                         watched = measure_divergence(a, b, text(), {.state_error = true});
  EXPECT_EQ(plain.divergence, watched.divergence);
  EXPECT_EQ(plain.changed_loss, watched.changed_loss);
}

TEST(Divergence, ATextShorterThanAWindowIsRefused) {
  const ParameterStore store = small_model(1);
  const std::vector<int64_t> ids = {1, 2, 3};
  EXPECT_THROW(measure_divergence(store, store, ids), Error);
}

}  // namespace
}  // namespace osp
