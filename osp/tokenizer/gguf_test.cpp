// Names of pre-tokenizers in both directions. Ids are compared with other implementations in
// tests/python/test_gguf_tokenizer.py.
#include "osp/tokenizer/gguf.h"

#include <gtest/gtest.h>

#include <sstream>

namespace osp {
namespace {

TEST(GgufTokenizer, EveryNameHasAPreTokenizerThatFindsANameOfTheSame) {
  std::istringstream names(gguf_pre_tokenizer_names());
  int count = 0;
  for (std::string name; std::getline(names, name, ',');) {
    if (name.starts_with(' ')) name.erase(0, 1);
    const Json pre = gguf_pre_tokenizer(name);
    ASSERT_FALSE(pre.is_null()) << name;
    const bool whole_words = gguf_takes_whole_words(name);
    const std::string_view first = gguf_pre_tokenizer_name(pre, whole_words);
    EXPECT_EQ(gguf_pre_tokenizer(first), pre) << name;
    EXPECT_EQ(gguf_takes_whole_words(first), whole_words) << name;
    ++count;
  }
  EXPECT_EQ(count, 43);
}

TEST(GgufTokenizer, SpellingThatChangesNoWordChangesNoName) {
  const auto name_of = [](const char* json) {
    return gguf_pre_tokenizer_name(Json::parse(json), /*whole_words=*/false);
  };
  EXPECT_EQ(name_of(R"({"type": "ByteLevel", "add_prefix_space": false})"), "gpt-2");
  EXPECT_EQ(name_of(R"({"use_regex": true, "type": "ByteLevel", "trim_offsets": false,
                        "add_prefix_space": false})"),
            "gpt-2");
  EXPECT_EQ(name_of(R"({"type": "Sequence", "pretokenizers": [
                        {"type": "ByteLevel", "add_prefix_space": false}]})"),
            "gpt-2");
  EXPECT_EQ(name_of(R"({"type": "Sequence", "pretokenizers": [
                        {"individual_digits": true, "type": "Digits"},
                        {"type": "ByteLevel", "add_prefix_space": false}]})"),
            "smollm");
}

TEST(GgufTokenizer, OtherWordsHaveNoName) {
  for (const char* json :
       {"null", R"({"type": "ByteLevel", "add_prefix_space": true})",
        R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})",
        R"({"type": "Metaspace", "replacement": "▁"})", R"({"type": 7})", "[]", "3",
        R"({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": false},
            {"type": "ByteLevel", "add_prefix_space": false}]})"}) {
    for (const bool whole_words : {false, true}) {
      EXPECT_EQ(gguf_pre_tokenizer_name(Json::parse(json), whole_words), "") << json;
    }
  }
}

}  // namespace
}  // namespace osp
