// Equality with transformers and lm-eval is in tests/python/test_lm_eval.py.
#include "osp/eval/request_scorer.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "osp/base/philox.h"
#include "osp/base/test_error.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"
#include "osp/quant/fake_quant.h"

namespace osp {
namespace {

ModelConfig small_config() {
  ModelConfig config = grouped_query_config(61, 48);
  config.init_std = 0.3;
  return config;
}

ParameterStore model_of(const ModelConfig& config) { return initialized_model(config, 3); }

std::vector<int32_t> tokens_of(const RandomStream& random, uint64_t& counter, int64_t count) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<int32_t>(random.uniform(counter++) * 61));
  }
  return tokens;
}

// Contexts with long common beginnings, alone and equal ones; choices of one token and of many.
std::vector<ChoiceRequest> some_requests() {
  const RandomStream random(5, "requests");
  uint64_t counter = 0;
  const std::vector<int32_t> shots = tokens_of(random, counter, 12);
  std::vector<ChoiceRequest> requests;
  for (int64_t i = 0; i < 9; ++i) {
    ChoiceRequest request;
    if (i % 3 != 0) request.context = shots;
    for (const int32_t id : tokens_of(random, counter, 1 + 2 * i)) request.context.push_back(id);
    if (i == 8) request.context = requests[4].context;
    for (int64_t c = 0; c < 2 + i % 3; ++c) {
      request.continuations.push_back(tokens_of(random, counter, 1 + (c * 5) % 7));
    }
    requests.push_back(request);
  }
  return requests;
}

// One sequence at a time, from all logits.
ChoiceScore score_twin(const ParameterStore& store, const std::vector<int32_t>& context,
                       const std::vector<int32_t>& continuation, Tap* tap = nullptr) {
  std::vector<int64_t> ids(context.begin(), context.end());
  ids.insert(ids.end(), continuation.begin(), continuation.end());
  const size_t read = ids.size() - 1;
  const size_t first = read > static_cast<size_t>(store.config.context)
                           ? read - static_cast<size_t>(store.config.context)
                           : 0;
  const std::vector<int64_t> input(ids.begin() + static_cast<int64_t>(first), ids.end() - 1);
  const at::Tensor logits =
      forward_logits(store, at::tensor(input).unsqueeze(0), {.tap = tap})[0].to(at::kDouble);
  const at::Tensor log_p = logits.log_softmax(-1);
  ChoiceScore score{0, true};
  const int64_t n = static_cast<int64_t>(continuation.size());
  for (int64_t i = 0; i < n; ++i) {
    const int64_t row = static_cast<int64_t>(input.size()) - n + i;
    score.log_likelihood += log_p[row][continuation[static_cast<size_t>(i)]].item<double>();
    score.greedy =
        score.greedy && log_p[row].argmax().item<int64_t>() == continuation[static_cast<size_t>(i)];
  }
  return score;
}

// Sums of a dozen fp32 products in another order: 1e-5 of values up to 50.
void expect_equal_to_twin(const ParameterStore& store, const std::vector<ChoiceRequest>& requests,
                          const ScoreOptions& options) {
  const std::vector<ScoredRequest> results = score_choices(store, requests, options);
  ASSERT_EQ(results.size(), requests.size());
  for (size_t r = 0; r < requests.size(); ++r) {
    ASSERT_EQ(results[r].choices.size(), requests[r].continuations.size());
    for (size_t c = 0; c < results[r].choices.size(); ++c) {
      const ChoiceScore twin =
          score_twin(store, requests[r].context, requests[r].continuations[c], options.tap);
      EXPECT_NEAR(results[r].choices[c].log_likelihood, twin.log_likelihood, 5e-5)
          << "request " << r << " choice " << c;
      EXPECT_EQ(results[r].choices[c].greedy, twin.greedy);
    }
  }
}

TEST(RequestScorer, EqualsOneSequenceAtATime) {
  expect_equal_to_twin(model_of(small_config()), some_requests(), {});
}

TEST(RequestScorer, SmallPassesGiveTheSame) {
  expect_equal_to_twin(model_of(small_config()), some_requests(), {.batch_tokens = 40});
  expect_equal_to_twin(model_of(small_config()), some_requests(), {.batch_tokens = 1});
}

// Counts the tokens that passes read.
struct TokenCounter : Tap {
  int64_t tokens = 0;
  bool wants(TapPoint point, int64_t) const override { return point == TapPoint::embedding; }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override {
    tokens += x.size(1);
    return x;
  }
};

int64_t tokens_read(const ParameterStore& store, const std::vector<ChoiceRequest>& requests,
                    int64_t batch_tokens) {
  TokenCounter counter;
  score_choices(store, requests, {.tap = &counter, .batch_tokens = batch_tokens});
  return counter.tokens;
}

// Two questions behind the same examples; choices that begin alike.
std::vector<ChoiceRequest> questions_with_examples() {
  const RandomStream random(7, "questions");
  uint64_t counter = 0;
  const std::vector<int32_t> examples = tokens_of(random, counter, 12);
  const std::vector<int32_t> words = tokens_of(random, counter, 8);
  std::vector<ChoiceRequest> requests(2);
  for (ChoiceRequest& request : requests) {
    request.context = examples;
    for (const int32_t id : tokens_of(random, counter, 9)) request.context.push_back(id);
    for (const int64_t own : {5, 7}) {
      request.continuations.push_back(words);
      for (const int32_t id : tokens_of(random, counter, own)) {
        request.continuations.back().push_back(id);
      }
    }
  }
  return requests;
}

TEST(RequestScorer, WhatTextsBeginWithInCommonIsReadOnce) {
  const ParameterStore store = model_of(small_config());
  const std::vector<ChoiceRequest> requests = questions_with_examples();
  // Examples once; of each question 9 tokens, of its choices 8 together and all but the last of
  // the rest.
  EXPECT_EQ(tokens_read(store, requests, 8192), 12 + 2 * (9 + 8 + 4 + 6));
  // A pass for each question reads the examples twice; sequence by sequence it would be 136.
  EXPECT_EQ(tokens_read(store, requests, 1), 2 * (12 + 9 + 8 + 4 + 6));
  expect_equal_to_twin(store, requests, {});
  expect_equal_to_twin(store, requests, {.batch_tokens = 1});
}

TEST(RequestScorer, TextsThatShareABeginningEqualTextsAloneInEveryFamily) {
  std::vector<ModelConfig> configs(12, small_config());
  configs[0].kv_heads = 1;
  configs[1].kv_heads = 4;
  configs[2].window = 14;  // ends within the examples, the question and the choice
  configs[3].window = 20;
  configs[3].first_window_layer = 1;
  configs[4].learned_positions = true;
  configs[4].position_offset = 2;
  configs[4].embedding_projection = false;
  configs[5].rotary_size = 4;
  configs[6].rope_scaling = {.type = "linear", .factor = 4};
  configs[7].rope_scaling = {.type = "llama3", .factor = 8, .original_context = 24};
  configs[8].parallel = configs[8].shared_norm = true;
  configs[8].norm = "layer";
  configs[9].norm_after = configs[9].qk_norm = configs[9].qk_norm_wide = true;
  configs[10].qkv_bias = true;
  configs[10].clip_qkv = 0.5;
  configs[11].gated = false;
  configs[11].activation = "gelu";
  for (const ModelConfig& config : configs) {
    SCOPED_TRACE(&config - configs.data());
    const ParameterStore store = model_of(config);
    for (const int64_t batch_tokens : {8192, 60, 1}) {
      expect_equal_to_twin(store, questions_with_examples(), {.batch_tokens = batch_tokens});
    }
  }
}

TEST(RequestScorer, EqualsForLearnedPositionsPartialRotationAndWindows) {
  ModelConfig learned = small_config();
  learned.learned_positions = true;
  learned.position_offset = 2;
  learned.embedding_projection = false;
  ModelConfig partial = small_config();
  partial.rotary_size = 4;
  partial.qk_norm = true;
  ModelConfig windowed = small_config();
  windowed.window = 5;
  windowed.first_window_layer = 1;
  for (const ModelConfig& config : {learned, partial, windowed}) {
    expect_equal_to_twin(model_of(config), some_requests(), {});
  }
}

// The quantizers see one token at a time, so that it is exact to share; but a value at the boundary
// of two steps may fall to either side. With coarser grids the steps are larger and so is what one
// such value moves: they are compared in fp64, where no rounding reaches a boundary.
TEST(RequestScorer, EqualsUnderFakeQuantization) {
  ParameterStore store = model_of(small_config());
  const auto expect_near = [&](const char* bits, double tolerance) {
    FakeQuantTap tap(store, parse_bits(bits));
    for (const auto& requests : {some_requests(), questions_with_examples()}) {
      const std::vector<ScoredRequest> results = score_choices(store, requests, {.tap = &tap});
      for (size_t r = 0; r < requests.size(); ++r) {
        for (size_t c = 0; c < results[r].choices.size(); ++c) {
          const ChoiceScore twin =
              score_twin(store, requests[r].context, requests[r].continuations[c], &tap);
          EXPECT_NEAR(results[r].choices[c].log_likelihood, twin.log_likelihood, tolerance)
              << bits << " request " << r << " choice " << c;
        }
      }
    }
  };
  expect_near("8-8-8", 5e-2);
  for (Bank& bank : store.banks) bank.compute = bank.master = bank.master.to(at::kDouble);
  for (const char* bits : {"4-4-4", "4-8-16", "16-16-4"}) expect_near(bits, 1e-5);
}

TEST(RequestScorer, LongContextsAreCutOnTheLeftAndCounted) {
  const ParameterStore store = model_of(small_config());
  const RandomStream random(6, "requests");
  uint64_t counter = 0;
  std::vector<ChoiceRequest> requests(1);
  requests[0].context = tokens_of(random, counter, 60);
  requests[0].continuations = {tokens_of(random, counter, 1), tokens_of(random, counter, 9)};
  expect_equal_to_twin(store, requests, {});
  EXPECT_EQ(score_choices(store, requests)[0].cut, 60 + 9 - 1 - 48);
}

TEST(RequestScorer, BadRequestsAreErrors) {
  const ParameterStore store = model_of(small_config());
  const auto score = [&](ChoiceRequest request) {
    return [&store, request] { score_choices(store, std::vector{request}); };
  };
  expect_error(ErrorCode::usage, {"request 0"}, score({{}, {{1}}}));
  expect_error(ErrorCode::damaged, {"61"}, score({{1}, {{61}}}));
  expect_error(ErrorCode::unsupported, {"48"}, score({{1}, {std::vector<int32_t>(49, 1)}}));
}

}  // namespace
}  // namespace osp
