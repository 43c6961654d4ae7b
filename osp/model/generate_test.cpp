#include "osp/model/generate.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer kTokenizer = Tokenizer::from_file(OSP_SOURCE_DIR "/recipes/gcide-4096");
  return kTokenizer;
}

ParameterStore random_model(int64_t context = 64) {
  ModelConfig config = grouped_query_config(tokenizer().vocabulary(), context);
  config.init_std = 0.2;
  return initialized_model(config, 4);
}

// The most likely next token by a pass over the whole text, without a cache.
int32_t next_without_cache(const ParameterStore& store, const std::vector<int32_t>& ids) {
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  const at::Tensor logits = forward_logits(store, at::tensor(wide).unsqueeze(0));
  return static_cast<int32_t>(at::argmax(logits.select(1, -1)).item<int64_t>());
}

TEST(Generate, GreedyTextWithCacheEqualsTextWithout) {
  const ParameterStore store = random_model();
  const Generation result = generate(store, tokenizer(), "An apple is", {.max_tokens = 20});
  std::vector<int32_t> ids = result.prompt_tokens;
  ASSERT_FALSE(result.tokens.empty());
  for (const int32_t id : result.tokens) {
    EXPECT_EQ(id, next_without_cache(store, ids));
    ids.push_back(id);
  }
}

TEST(Generate, StreamedPiecesAddUpToTheText) {
  const ParameterStore store = random_model();
  std::string streamed;
  const Generation result = generate(store, tokenizer(), "An apple is",
                                     {.max_tokens = 40, .sampling = {.temperature = 1}},
                                     [&](std::string_view piece) { streamed += piece; });
  EXPECT_EQ(streamed, result.text);
  EXPECT_FALSE(streamed.empty());
}

TEST(Generate, FullContextKeepsItsNewestHalf) {
  constexpr int64_t kContext = 16;
  const ParameterStore store = random_model(kContext);
  const Generation result = generate(store, tokenizer(), "apple", {.max_tokens = 60});
  std::vector<int32_t> ids = result.prompt_tokens;
  ASSERT_GT(result.prompt_tokens.size() + result.tokens.size(), size_t{kContext});
  size_t first = 0;  // oldest token in the context
  for (const int32_t id : result.tokens) {
    if (ids.size() - first > kContext) first = ids.size() - kContext / 2;
    EXPECT_EQ(id, next_without_cache(
                      store, {ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end()}));
    ids.push_back(id);
  }
  EXPECT_EQ(result.dropped, static_cast<int64_t>(first));
}

TEST(Generate, PromptLongerThanTheContextIsReadFromItsEnd) {
  const ParameterStore store = random_model(16);
  std::string prompt;
  for (int i = 0; i < 30; ++i) prompt += "an apple and ";
  const Generation result = generate(store, tokenizer(), prompt, {.max_tokens = 1});
  const auto& ids = result.prompt_tokens;
  ASSERT_GT(ids.size(), 16u);
  EXPECT_EQ(result.dropped, static_cast<int64_t>(ids.size()) - 8);
  EXPECT_EQ(result.tokens.at(0), next_without_cache(store, {ids.end() - 8, ids.end()}));
}

TEST(Generate, EmptyPromptBeginsADocument) {
  const Generation result = generate(random_model(), tokenizer(), "", {.max_tokens = 3});
  EXPECT_EQ(result.prompt_tokens, std::vector<int32_t>({tokenizer().end_of_document()}));
}

TEST(Generate, EndTokenEndsTheTextAndIsNotPartOfIt) {
  const ParameterStore store = random_model();
  const Generation whole = generate(store, tokenizer(), "An apple is", {.max_tokens = 10});
  ASSERT_GT(whole.tokens.size(), 5u);
  const int32_t end = whole.tokens[5];
  const Generation cut =
      generate(store, tokenizer(), "An apple is", {.max_tokens = 10, .end_tokens = {end}});
  EXPECT_EQ(cut.finish, "end");
  const auto first = std::find(whole.tokens.begin(), whole.tokens.end(), end);
  EXPECT_EQ(cut.tokens, std::vector<int32_t>(whole.tokens.begin(), first));
}

TEST(Generate, TokenizerOfALargerVocabularyIsRefused) {
  ModelConfig config = random_model().config;
  config.vocabulary = 10;
  ParameterStore store = make_parameters(config, {});
  initialize_parameters(store, 4);
  EXPECT_THROW(generate(store, tokenizer(), "An apple is", {.max_tokens = 1}), Error);
}

}  // namespace
}  // namespace osp
