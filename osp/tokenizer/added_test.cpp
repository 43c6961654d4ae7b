#include "osp/tokenizer/added.h"

#include <gtest/gtest.h>

#include "osp/tokenizer/test_files.h"

namespace osp::tokenizer {
namespace {

// Added tokens of a file whose vocabulary is one letter, numbered from 10.
class AddedTokensTest : public testing::Test {
 protected:
  AddedTokens read(const char* tokens, const char* normalizer = nullptr) {
    file_ = test_file(test_model({"a"}, {}));
    file_["added_tokens"] = SortedJson::parse(tokens);
    for (size_t i = 0; i < file_["added_tokens"].size(); ++i) {
      SortedJson& token = file_["added_tokens"][i];
      if (!token.contains("id")) token["id"] = 10 + i;
      if (!token.contains("normalized")) token["normalized"] = false;
    }
    const Component component{file_, "test.json"};
    const SortedJson steps = normalizer ? SortedJson::parse(normalizer) : SortedJson();
    return AddedTokens(component, Bpe(component.child("model")),
                       normalizer ? Normalizer(Component{steps, "test"}) : Normalizer());
  }

  // The parts of `text`: tokens as "[id]".
  static std::string parts(const AddedTokens& tokens, std::string_view text,
                           bool normalized = false) {
    std::string out;
    tokens.split(text, normalized, [&](std::string_view part, int32_t id) {
      out += id < 0 ? fmt::format("({})", part) : fmt::format("[{}]", id);
    });
    return out;
  }

  SortedJson file_;
};

TEST_F(AddedTokensTest, LongestWinsAtTheLeftmostPlace) {
  const AddedTokens tokens =
      read(R"([{"content": "<x>"}, {"content": "<x><y>"}, {"content": "<z>"}])");
  EXPECT_EQ(parts(tokens, "a<x><x><y>b<z"), "(a)[10][11](b<z)");
  EXPECT_EQ(parts(tokens, ""), "");
  EXPECT_EQ(parts(tokens, "<z>"), "[12]");
}

TEST_F(AddedTokensTest, StripTakesWhiteSpaceOfItsSide) {
  const AddedTokens tokens = read(R"([{"content": "<l>", "lstrip": true},
                                      {"content": "<r>", "rstrip": true}, {"content": " "}])");
  EXPECT_EQ(parts(tokens, "a\n\t<l>b<r>\n c"), "(a)[10](b)[11][12](c)");
}

TEST_F(AddedTokensTest, TokensInSwallowedSpaceAreFoundAndTextGoesOnBehindThem) {
  const AddedTokens tokens = read(R"([{"content": "<r>", "rstrip": true}, {"content": "  "}])");
  EXPECT_EQ(parts(tokens, "<r>  a  b"), "[10][11](a)[11](b)");
  EXPECT_EQ(parts(tokens, "<r>   a"), "[10][11]( a)");
  const AddedTokens both = read(R"([{"content": " ", "lstrip": true, "rstrip": true}])");
  EXPECT_EQ(parts(both, "a   b"), "(a)[10](b)");
}

TEST_F(AddedTokensTest, OfAContentThatIsListedTwiceTheLastEntryCounts) {
  const AddedTokens tokens =
      read(R"([{"content": "<m>", "id": 10, "special": true, "normalized": true},
               {"content": "<m>", "id": 10, "rstrip": true, "normalized": false}])");
  EXPECT_EQ(parts(tokens, "a<m> b"), "(a)[10](b)");
  EXPECT_EQ(parts(tokens, "a<m> b", true), "(a<m> b)");
  EXPECT_TRUE(tokens.find(10)->special);
}

TEST_F(AddedTokensTest, SingleWordsNeedBoundaries) {
  const AddedTokens tokens = read(R"([{"content": "word", "single_word": true}])");
  EXPECT_EQ(parts(tokens, "word sword words word\xCC\x81 (word) \xC3\xA9word"),
            "[10]( sword words word\xCC\x81 ()[10]() \xC3\xA9word)");
}

TEST_F(AddedTokensTest, NormalizedTokensAreFoundInNormalizedText) {
  const AddedTokens tokens = read(R"([{"content": "ABC", "normalized": true}, {"content": "DEF"}])",
                                  R"({"type": "Lowercase"})");
  EXPECT_EQ(parts(tokens, "abcDEF"), "(abc)[11]");
  EXPECT_EQ(parts(tokens, "abcABC", true), "[10](ABC)");
}

TEST_F(AddedTokensTest, LongRunsOfAStartTakeLinearTime) {
  const AddedTokens tokens = read(R"([{"content": "<<<<<<<<<<<<<<<<>"}, {"content": "b"}])");
  const std::string text(1 << 20, '<');
  EXPECT_EQ(parts(tokens, text), "(" + text + ")");
}

TEST_F(AddedTokensTest, IdsThatContradictTheVocabularyAreDamage) {
  EXPECT_THROW(read(R"([{"content": "a", "id": 3}])"), Error);
  EXPECT_THROW(read(R"([{"content": "b", "id": 0}])"), Error);
  EXPECT_THROW(read(R"([{"content": "b", "id": 5}, {"content": "c", "id": 5}])"), Error);
  EXPECT_THROW(read(R"([{"content": "b", "id": -1}])"), Error);
  EXPECT_THROW(read(R"([{"content": "b", "id": 2147483647}])"), Error);
  EXPECT_THROW(read(R"([{"id": 5}])"), Error);
  EXPECT_EQ(read(R"([{"content": "a", "id": 0}])").find("a")->id, 0);
}

}  // namespace
}  // namespace osp::tokenizer
