// Equality with transformers is in tests/python/test_eval.py.
#include "osp/eval/perplexity.h"

#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/test_error.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

ParameterStore small_model() {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 2;
  config.vocabulary = 30;
  config.context = 8;
  config.init_std = 0.3;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 9);
  return store;
}

std::vector<int64_t> some_tokens(int64_t count) {
  std::vector<int64_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(i * i % 29);
  return tokens;
}

// Window by window, position by position, from all logits.
double loss_twin(const ParameterStore& store, std::vector<int64_t> tokens, int64_t window) {
  double sum = 0.0;
  int64_t scored = 0;
  for (size_t begin = 0; begin + static_cast<size_t>(window) <= tokens.size();
       begin += static_cast<size_t>(window)) {
    const at::Tensor logits =
        forward_logits(store, at::from_blob(tokens.data() + begin, {1, window}, at::kLong))[0];
    const at::Tensor log_p = logits.to(at::kDouble).log_softmax(-1);
    for (int64_t t = 1; t < window; ++t) {
      sum -= log_p[t - 1][tokens[begin + static_cast<size_t>(t)]].item<double>();
      ++scored;
    }
  }
  return sum / static_cast<double>(scored);
}

TEST(Perplexity, EqualsItsTwinAndDropsTheTail) {
  const ParameterStore store = small_model();
  const std::vector<int64_t> tokens = some_tokens(8 * 5 + 7);
  const PerplexityResult result = measure_perplexity(store, tokens);
  EXPECT_EQ(result.tokens, 5 * 7);
  // fp32 losses of about 3, summed over 35 terms: 1e-5 is fifty roundings.
  EXPECT_NEAR(result.loss, loss_twin(store, tokens, 8), 1e-5);
  EXPECT_DOUBLE_EQ(result.perplexity, std::exp(result.loss));
}

TEST(Perplexity, BatchSizeDoesNotMatterBeyondRounding) {
  const ParameterStore store = small_model();
  const std::vector<int64_t> tokens = some_tokens(80);
  PerplexityOptions one;
  one.batch_tokens = 1;
  EXPECT_NEAR(measure_perplexity(store, tokens, one).loss, measure_perplexity(store, tokens).loss,
              1e-5);
}

TEST(Perplexity, LimitTakesWholeWindowsAndAtLeastOne) {
  const ParameterStore store = small_model();
  const std::vector<int64_t> tokens = some_tokens(80);
  PerplexityOptions options;
  for (const auto& [limit, windows] : {std::pair{1, 1}, {8, 1}, {23, 2}, {1000, 10}}) {
    options.max_tokens = limit;
    EXPECT_EQ(measure_perplexity(store, tokens, options).tokens, windows * 7) << limit;
  }
}

TEST(Perplexity, OverlappingWindowsScoreEveryTokenOnceWithTheLongerContext) {
  const ParameterStore store = small_model();
  std::vector<int64_t> tokens = some_tokens(8 + 3 * 3 + 2);  // four windows, a tail of two
  double sum = 0.0;
  int64_t scored = 0;
  for (int64_t window = 0; window < 4; ++window) {
    const at::Tensor logits =
        forward_logits(store, at::from_blob(tokens.data() + 3 * window, {1, 8}, at::kLong))[0];
    const at::Tensor log_p = logits.to(at::kDouble).log_softmax(-1);
    for (int64_t t = window == 0 ? 1 : 5; t < 8; ++t, ++scored) {
      sum -= log_p[t - 1][tokens[static_cast<size_t>(3 * window + t)]].item<double>();
    }
  }
  for (const int64_t batch_tokens : {1, 16, 8192}) {
    PerplexityOptions options;
    options.stride = 3;
    options.batch_tokens = batch_tokens;
    const PerplexityResult result = measure_perplexity(store, tokens, options);
    EXPECT_EQ(result.windows, 4);
    EXPECT_EQ(result.tokens, scored);
    EXPECT_NEAR(result.loss, sum / static_cast<double>(scored), 1e-5);  // fp32 sums
  }
  expect_error(ErrorCode::usage, {"stride", "9"}, [&] {
    PerplexityOptions options;
    options.stride = 9;
    measure_perplexity(store, tokens, options);
  });
}

TEST(Perplexity, WindowIsTheSmallerOfContextAnd2048) {
  EXPECT_EQ(perplexity_window(256), 256);
  EXPECT_EQ(perplexity_window(8192), 2048);
}

TEST(Perplexity, TooFewTokensAndForeignIdsAreRefused) {
  const ParameterStore store = small_model();
  const auto expect_refusal = [&](ErrorCode code, const std::vector<int64_t>& tokens) {
    expect_error(code, {}, [&] { measure_perplexity(store, tokens); });
  };
  expect_refusal(ErrorCode::unsupported, some_tokens(7));
  std::vector<int64_t> foreign = some_tokens(16);
  for (const int64_t id : {30, -1}) {
    foreign[3] = id;
    expect_refusal(ErrorCode::damaged, foreign);
  }
}

}  // namespace
}  // namespace osp
