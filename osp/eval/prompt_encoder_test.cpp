// Equality with lm-eval is in tests/python/test_score.py and test_lm_eval.py.
#include "osp/eval/prompt_encoder.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/tokenizer/test_files.h"

namespace osp {
namespace {

using Ids = std::vector<int32_t>;
using Texts = std::vector<std::string>;

constexpr int32_t kThe = 258, kFront = 300, kBack = 301, kEnd = 302;

// Token i is byte i; " the" and "the" are tokens too. <s> and </s> stand around a text on request.
Tokenizer byte_tokenizer(bool special, bool end_of_document = true) {
  auto file = tokenizer::test_file(
      tokenizer::test_model(tokenizer::test_byte_alphabet(), {"h e", "t he", "\xC4\xA0 the"}));
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  file["decoder"] = {{"type", "ByteLevel"}};
  const auto add = [&](int32_t id, const char* content) {
    file["added_tokens"].push_back({{"id", id}, {"content", content}, {"special", true}});
  };
  if (end_of_document) add(kEnd, "<|endoftext|>");
  if (!special) return Tokenizer::from_json(file.dump(), "test");
  add(kFront, "<s>");
  add(kBack, "<end>");
  file["post_processor"] = tokenizer::SortedJson::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}},
                 {"SpecialToken": {"id": "<end>", "type_id": 0}}], "pair": [],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]},
                         "<end>": {"id": "<end>", "ids": [301], "tokens": ["<end>"]}}})");
  return Tokenizer::from_json(file.dump(), "test");
}

TEST(PromptEncoder, SpaceAtTheEndOfTheContextMovesToTheContinuation) {
  const Tokenizer tokenizer = byte_tokenizer(/*special=*/false);
  const PromptEncoder encoder(tokenizer);
  for (const auto& [context, continuation] : {std::pair{"a", " the"}, {"a ", "the"}}) {
    const ChoiceRequest request = encoder.choices(context, Texts{continuation, "b"});
    EXPECT_EQ(request.context, (Ids{'a'})) << context;
    EXPECT_EQ(request.continuations[0], (Ids{kThe})) << context;
  }
}

TEST(PromptEncoder, AContinuationThatMergesIntoTheContextIsScoredBehindWhatBothHaveInCommon) {
  const Tokenizer tokenizer = byte_tokenizer(/*special=*/false);
  const PromptEncoder encoder(tokenizer);
  // "t" + "he" is one token: nothing is in common but the start of the text.
  const ChoiceRequest alone = encoder.choices("t", Texts{"he", "x"});
  EXPECT_EQ(alone.context_of(0), (Ids{kEnd}));
  EXPECT_EQ(alone.continuations[0], (Ids{257}));
  EXPECT_EQ(alone.context_of(1), (Ids{'t'}));
  EXPECT_EQ(alone.continuations[1], (Ids{'x'}));
  const ChoiceRequest behind = encoder.choices("at", Texts{"he"});
  EXPECT_EQ(behind.context_of(0), (Ids{'a'}));
  EXPECT_EQ(behind.continuations[0], (Ids{257}));
}

TEST(PromptEncoder, AContinuationWithoutTokensIsNoAnswer) {
  const Tokenizer tokenizer = byte_tokenizer(/*special=*/true);
  const PromptEncoder encoder(tokenizer);
  for (const char* context : {"a", ""}) {
    expect_error(ErrorCode::unsupported, {"no tokens"},
                 [&] { encoder.choices(context, Texts{""}); });
  }
}

TEST(PromptEncoder, OnlySpecialTokensInFrontStandInFrontOfTheContext) {
  const Tokenizer tokenizer = byte_tokenizer(/*special=*/true);
  const PromptEncoder encoder(tokenizer);
  EXPECT_EQ(encoder.context("ab"), (Ids{kFront, 'a', 'b'}));
  const ChoiceRequest request = encoder.choices("a", Texts{"b"});
  EXPECT_EQ(request.context, (Ids{kFront, 'a'}));
  EXPECT_EQ(request.continuations[0], (Ids{'b'}));
}

TEST(PromptEncoder, AnEmptyContextIsTheFrontTokenOrTheEndOfADocument) {
  for (const char* context : {"", " \n"}) {
    const Tokenizer with_front = byte_tokenizer(/*special=*/true);
    const ChoiceRequest front = PromptEncoder(with_front).choices(context, Texts{"b"});
    EXPECT_EQ(front.context, (Ids{kFront}));
    EXPECT_EQ(front.continuations[0].back(), 'b');
    const Tokenizer plain = byte_tokenizer(/*special=*/false);
    EXPECT_EQ(PromptEncoder(plain).choices(context, Texts{"b"}).context, (Ids{kEnd}));
  }
  // A text that begins with that token itself does not repeat it.
  const Tokenizer plain = byte_tokenizer(/*special=*/false);
  const ChoiceRequest request = PromptEncoder(plain).choices("", Texts{"<|endoftext|>b"});
  EXPECT_EQ(request.continuations[0], (Ids{'b'}));
  const Tokenizer bare = byte_tokenizer(/*special=*/false, /*end_of_document=*/false);
  expect_error(ErrorCode::unsupported, {"end-of-document"},
               [&] { PromptEncoder(bare).context(""); });
}

TEST(PromptEncoder, RollingWindowsScoreEachTokenOnce) {
  const Tokenizer tokenizer = byte_tokenizer(/*special=*/false);
  const auto windows = PromptEncoder(tokenizer).rolling_windows("abcde", 2);
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_EQ(windows[0].context, (Ids{kEnd}));
  EXPECT_EQ(windows[0].continuations[0], (Ids{'a', 'b'}));
  EXPECT_EQ(windows[1].context, (Ids{'b'}));
  EXPECT_EQ(windows[1].continuations[0], (Ids{'c', 'd'}));
  EXPECT_EQ(windows[2].context, (Ids{'c', 'd'}));
  EXPECT_EQ(windows[2].continuations[0], (Ids{'e'}));
}

}  // namespace
}  // namespace osp
