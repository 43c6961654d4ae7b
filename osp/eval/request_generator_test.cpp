// Equality with transformers and lm-eval is in tests/python/test_lm_eval.py.
#include "osp/eval/request_generator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "osp/base/test_error.h"
#include "osp/model/generate.h"
#include "osp/model/test_model.h"

namespace osp {
namespace {

const Tokenizer& test_tokenizer() {
  static const Tokenizer kTokenizer = Tokenizer::from_file(OSP_SOURCE_DIR "/recipes/gcide-4096");
  return kTokenizer;
}

ParameterStore generating_model(int64_t window = 0) {
  ModelConfig config = grouped_query_config(test_tokenizer().vocabulary(), 96);
  config.init_std = 0.2;
  config.window = window;
  return initialized_model(config, 4);
}

const std::vector<std::string> kPrompts = {
    "An apple is a fruit that grows on a tree of the garden, and a pear is",
    "An apple is a fruit that grows on a tree of the garden, and a plum",
    "A word",
    "An apple is a fruit that grows on a tree of the garden, and",
    "The sea, the sea and again the sea; then a ship",
    "A word"};

std::vector<GenerationRequest> generation_requests() {
  std::vector<GenerationRequest> requests;
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    requests.push_back({test_tokenizer().encode(kPrompts[i]), static_cast<int64_t>(4 + 6 * i), {}});
  }
  return requests;
}

void expect_equal_to_single_rows(const ParameterStore& store,
                                 const std::vector<GenerationRequest>& requests,
                                 const ScoreOptions& options) {
  const auto results = generate_greedy(store, test_tokenizer(), requests, options);
  ASSERT_EQ(results.size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    GenerateOptions single{.max_tokens = requests[i].max_tokens};
    single.sampling.temperature = 0;
    single.stop = requests[i].stop;
    const Generation twin = generate(store, test_tokenizer(), kPrompts[i], single);
    EXPECT_EQ(results[i].tokens, twin.tokens) << i;
    EXPECT_EQ(results[i].text, twin.text) << i;
  }
}

TEST(RequestGenerator, EqualsSingleRowsTokenByToken) {
  expect_equal_to_single_rows(generating_model(), generation_requests(), {});
}

TEST(RequestGenerator, LongPromptsReadInPiecesGiveTheSame) {
  expect_equal_to_single_rows(generating_model(), generation_requests(), {.batch_tokens = 5});
}

TEST(RequestGenerator, EqualsSingleRowsWithASlidingWindow) {
  expect_equal_to_single_rows(generating_model(/*window=*/6), generation_requests(), {});
}

TEST(RequestGenerator, TextEndsBeforeAStopString) {
  const ParameterStore store = generating_model();
  std::vector<GenerationRequest> requests = generation_requests();
  const auto free = generate_greedy(store, test_tokenizer(), requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].stop = {"never met", free[i].text.substr(free[i].text.size() / 2, 3)};
  }
  expect_equal_to_single_rows(store, requests, {});
  const auto stopped = generate_greedy(store, test_tokenizer(), requests);
  EXPECT_LT(stopped[5].text.size(), free[5].text.size());
  EXPECT_EQ(free[5].text.find(stopped[5].text), 0u);
}

TEST(RequestGenerator, TextEndsBeforeTheModelsEndTokens) {
  const ParameterStore store = generating_model();
  const std::vector<GenerationRequest> requests = generation_requests();
  const auto free = generate_greedy(store, test_tokenizer(), requests);
  const std::vector<int32_t>& tokens = free[5].tokens;
  const auto end = tokens.begin() + static_cast<ptrdiff_t>(tokens.size() / 2);
  ScoreOptions options;
  options.end_tokens = {*end};
  const auto ended = generate_greedy(store, test_tokenizer(), requests, options);
  const std::vector<int32_t> before(tokens.begin(), std::find(tokens.begin(), tokens.end(), *end));
  EXPECT_EQ(ended[5].tokens, before);
}

TEST(RequestGenerator, ContextsAreCutSoThatTheNewTokensFit) {
  const ParameterStore store = generating_model();
  std::vector<int32_t> context(100, 7);
  context.back() = 9;
  const auto results =
      generate_greedy(store, test_tokenizer(), std::vector<GenerationRequest>{{context, 6, {}}});
  EXPECT_EQ(results[0].cut, 10);
  const std::vector<GenerationRequest> greedy_for_all = {{context, 96, {}}};
  expect_error(ErrorCode::unsupported, {"request 0", "96"},
               [&] { generate_greedy(store, test_tokenizer(), greedy_for_all); });
}

}  // namespace
}  // namespace osp
