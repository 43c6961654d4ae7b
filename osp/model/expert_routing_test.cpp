#include "osp/model/expert_routing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

at::Tensor some_tokens() { return at::arange(24, at::kLong).mul(7).remainder(50).view({2, 12}); }

at::Tensor weight_of(const ParameterStore& store, ParameterRole role, int64_t expert = kNoExpert) {
  return store.master(store.find(role, 0, expert));
}

// Keeps what passes the points of the feed-forward network of the first block, and
// replaces its input.
struct FirstBlockTap : Tap {
  at::Tensor input, product, replacement;
  bool wants(TapPoint point, int64_t layer) const override {
    return layer == 0 && (point == TapPoint::mlp_input || point == TapPoint::mlp_product);
  }
  at::Tensor at(TapPoint point, int64_t, const at::Tensor& x) override {
    if (point == TapPoint::mlp_product) {
      product = x;
      return x;
    }
    input = x;
    return replacement.defined() ? replacement : x;
  }
};

TEST(ExpertRouting, TakesTheLargestProbabilitiesOfEveryTokenInOrder) {
  const at::Tensor logits = at::arange(5 * 6, at::kFloat).mul(5).remainder(7).view({6, 5}).cos();
  for (const bool normalized : {false, true}) {
    const ExpertRouting routing = route_tokens(logits, 2, 3, normalized);
    int64_t rows = 0;
    for (int64_t token = 0; token < 6; ++token) {
      // By hand: e^z over the sum of all, then the three largest.
      std::vector<std::pair<double, int64_t>> probabilities;
      double all = 0, chosen = 0;
      for (int64_t e = 0; e < 5; ++e) all += std::exp(logits[token][e].item<double>());
      for (int64_t e = 0; e < 5; ++e) {
        probabilities.emplace_back(std::exp(logits[token][e].item<double>()) / all, e);
      }
      std::stable_sort(probabilities.begin(), probabilities.end(),
                       [](const auto& a, const auto& b) { return a.first > b.first; });
      for (int s = 0; s < 3; ++s) chosen += probabilities[s].first;
      for (int64_t s = 0; s < 3; ++s) {
        const double wanted = probabilities[s].first / (normalized ? chosen : 1.0);
        EXPECT_NEAR(routing.weights[token][s].item<double>(), wanted, 1e-6);  // fp32
        // The expert has the token once, with this weight, at the place of this slot.
        const ExpertRows& own = routing.rows[routing.experts[token][s].item<int64_t>()];
        for (int64_t i = 0; i < own.tokens.numel(); ++i) {
          if (own.tokens[i].item<int64_t>() != token) continue;
          EXPECT_NEAR(own.weights[i][0].item<double>(), wanted, 1e-6);
          EXPECT_EQ(own.places[i].item<int64_t>(), (token / 3 * 3 + s) * 3 + token % 3);
          ++rows;
        }
      }
    }
    EXPECT_EQ(rows, 18);
  }
}

TEST(ExpertRouting, SoftmaxOfTheChosenLogitsIsThatOfAllDividedByTheirSum) {
  const at::Tensor logits = at::arange(5 * 6, at::kFloat).mul(5).remainder(7).view({6, 5}).cos();
  const ExpertRouting all = route_tokens(logits, 2, 3, /*normalized=*/true);
  const ExpertRouting chosen = route_tokens(logits, 2, 3, false, /*of_chosen=*/true);
  EXPECT_TRUE(chosen.experts.equal(all.experts));
  EXPECT_LT(chosen.weights.sub(all.weights).abs().max().item<double>(), 1e-6);  // fp32
  // Logits so far below the largest that their probabilities among all are equal (0) still have an
  // order.
  const at::Tensor far = at::tensor({0.0f, -200.0f, -150.0f, -300.0f}).unsqueeze(0);
  EXPECT_TRUE(route_tokens(far, 1, 3, false, true)
                  .experts.equal(at::tensor({0, 2, 1}, at::kLong).unsqueeze(0)));
}

TEST(ExpertRouting, GroupedExpertsGiveTheSumOverEveryTokensExperts) {
  const ParameterStore store = small_expert_model();
  const ModelConfig& config = store.config;
  FirstBlockTap tap;
  ForwardOptions options;
  options.tap = &tap;
  const at::Tensor x = forward_embedding(store, some_tokens());
  const BlockPieces pieces(store, 0, 12, options);
  const at::Tensor middle =
      x + pieces.attention_branch(pieces.attention_output(pieces.attention_input(x)));
  const at::Tensor branch = forward_block(store, 0, x, options) - middle;
  // Token by token, all experts one after the other.
  const at::Tensor rows = tap.input.flatten(0, 1);
  const ExpertRouting routing = pieces.routing(middle);
  at::Tensor wanted = at::zeros_like(rows);
  for (int64_t token = 0; token < rows.size(0); ++token) {
    for (int64_t s = 0; s < config.experts_per_token; ++s) {
      const int64_t e = routing.experts[token][s].item<int64_t>();
      const at::Tensor gate = weight_of(store, ParameterRole::gate, e).mv(rows[token]);
      const at::Tensor up = weight_of(store, ParameterRole::up, e).mv(rows[token]);
      const at::Tensor product = at::silu(gate) * up;
      EXPECT_LT(tap.product[token / 12][s][token % 12].sub(product).abs().max().item<double>(),
                1e-5);
      wanted[token].add_(routing.weights[token][s] *
                         weight_of(store, ParameterRole::down, e).mv(product));
    }
  }
  EXPECT_GT(wanted.abs().max().item<double>(), 1e-3);
  EXPECT_LT(branch.flatten(0, 1).sub(wanted).abs().max().item<double>(), 1e-5);  // fp32 sums
}

TEST(ExpertRouting, TheRouterReadsTheInputAsItWasBeforeTheTap) {
  const ParameterStore store = small_expert_model();
  FirstBlockTap plain, replaced;
  ForwardOptions options;
  options.tap = &plain;
  const at::Tensor x = forward_embedding(store, some_tokens());
  forward_block(store, 0, x, options);
  replaced.replacement = plain.input.mul(-1);  // would choose other experts
  options.tap = &replaced;
  forward_block(store, 0, x, options);
  // The expert of the input as it was, on the negative input.
  const at::Tensor token = plain.input[1][5];
  const at::Tensor logits = weight_of(store, ParameterRole::router).mv(token);
  const int64_t best = logits.argmax().item<int64_t>();
  ASSERT_NE(best, logits.argmin().item<int64_t>());
  const at::Tensor gate = weight_of(store, ParameterRole::gate, best).mv(token.neg());
  const at::Tensor up = weight_of(store, ParameterRole::up, best).mv(token.neg());
  EXPECT_LT(replaced.product[1][0][5].sub(at::silu(gate) * up).abs().max().item<double>(), 1e-5);
}

TEST(ExpertRouting, ModelsWithExpertsAreNotTrained) {
  const ParameterStore store = small_expert_model();
  ForwardOptions options;
  options.training = true;
  try {
    forward_logits(store, some_tokens(), options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("does not train models with experts"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace osp
