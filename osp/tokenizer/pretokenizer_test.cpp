#include "osp/tokenizer/pretokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "osp/base/test_error.h"
#include "osp/tokenizer/regex.h"
#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

using Strings = std::vector<std::string>;

Strings words(const char* json, std::string_view text, size_t start = 1) {
  const SortedJson parsed = SortedJson::parse(json);
  Strings found;
  Growth growth(text.size());
  PreTokenizer(Component{parsed, "test"})
      .for_each_word(text, start, growth, [&](std::string_view word) { found.emplace_back(word); });
  return found;
}

// Random text of the classes that GPT-2's pattern tells apart.
std::string random_text(std::mt19937& random, int length) {
  constexpr char32_t kCharacters[] = {'a',    's',    't',  'r',    'e',   'v',     'l',    'd',
                                      'm',    'S',    '\'', '\'',   ' ',   ' ',     '\n',   '\t',
                                      '1',    '9',    '.',  '-',    0xE9,  0xA0,    0x85,   0x180E,
                                      0x3000, 0x65E5, 0xBD, 0x2160, 0x301, 0x1F600, 0x200B, 0x2019};
  std::string text;
  for (int i = 0; i < length; ++i)
    append_utf8(text, kCharacters[random() % std::size(kCharacters)]);
  return text;
}

TEST(Gpt2Split, EqualsThePatternRunByPcre2) {
  const Regex pattern{std::string(kGpt2Pattern), "test"};
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    const std::string text = random_text(random, static_cast<int>(random() % 24));
    Strings expected;
    pattern.for_each_match(text, [&](size_t begin, size_t end) {
      expected.push_back(text.substr(begin, end - begin));
    });
    Strings found;
    for_each_gpt2_word(text, [&](std::string_view word) { found.emplace_back(word); });
    ASSERT_EQ(found, expected) << text;
  }
}

TEST(Gpt2Split, ContractionsAreLowerCaseAndNeedNoSpace) {
  const auto split = [](std::string_view text) {
    Strings found;
    for_each_gpt2_word(text, [&](std::string_view word) { found.emplace_back(word); });
    return found;
  };
  EXPECT_EQ(split("it's 'll'LL '"), (Strings{"it", "'s", " '", "ll", "'", "LL", " '"}));
  EXPECT_EQ(split("a  b \n"), (Strings{"a", " ", " b", " \n"}));
}

TEST(PreTokenizer, DigitsAreAloneOrInRuns) {
  EXPECT_EQ(words(R"({"type": "Digits", "individual_digits": true})", "a12 \xC2\xBD"),
            (Strings{"a", "1", "2", " ", "\xC2\xBD"}));
  EXPECT_EQ(words(R"({"type": "Digits", "individual_digits": false})", "12ab34"),
            (Strings{"12", "ab", "34"}));
}

TEST(PreTokenizer, SplitBehavesInEachOfItsWays) {
  const auto split = [](const std::string& behavior, bool invert) {
    const std::string json = fmt::format(
        R"({{"type": "Split", "pattern": {{"String": "-"}}, "behavior": "{}", "invert": {}}})",
        behavior, invert);
    return words(json.c_str(), "a--b-c");
  };
  EXPECT_EQ(split("Removed", false), (Strings{"a", "b", "c"}));
  EXPECT_EQ(split("Removed", true), (Strings{"-", "-", "-"}));
  EXPECT_EQ(split("Isolated", false), (Strings{"a", "-", "-", "b", "-", "c"}));
  EXPECT_EQ(split("MergedWithPrevious", false), (Strings{"a-", "-", "b-", "c"}));
  EXPECT_EQ(split("MergedWithNext", false), (Strings{"a", "-", "-b", "-c"}));
  EXPECT_EQ(split("Contiguous", false), (Strings{"a", "--", "b", "-", "c"}));
}

TEST(PreTokenizer, MetaspaceMarksTheStartAsItsSchemeSays) {
  const auto meta = [](const std::string& scheme, size_t start) {
    const std::string json = fmt::format(
        R"({{"type": "Metaspace", "replacement": "_", "prepend_scheme": "{}", "split": true}})",
        scheme);
    return words(json.c_str(), "a  b", start);
  };
  EXPECT_EQ(meta("always", false), (Strings{"_a", "_", "_b"}));
  EXPECT_EQ(meta("first", 1), (Strings{"_a", "_", "_b"}));
  EXPECT_EQ(meta("first", 0), (Strings{"a", "_", "_b"}));
  EXPECT_EQ(meta("never", true), (Strings{"a", "_", "_b"}));
}

TEST(PreTokenizer, BytesInPlaceOfTheAlphabetGiveTheSameWords) {
  const SortedJson json = SortedJson::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}]})");
  PreTokenizer raw(Component{json, "test"});
  const PreTokenizer mapped(Component{json, "test"});
  ASSERT_TRUE(raw.can_use_bytes());
  raw.use_bytes();
  std::mt19937 random(4);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = random_text(random, 12);
    Strings from_raw;
    Strings from_mapped;
    Growth growth(text.size());
    raw.for_each_word(text, 1, growth,
                      [&](std::string_view word) { from_raw.push_back(to_byte_alphabet(word)); });
    mapped.for_each_word(text, 1, growth,
                         [&](std::string_view word) { from_mapped.emplace_back(word); });
    ASSERT_EQ(from_raw, from_mapped) << text;
  }
}

TEST(PreTokenizer, StepsThatMultiplyTheTextAreRefusedByName) {
  SortedJson doubling =
      SortedJson::parse(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})");
  SortedJson chain = {{"type", "Sequence"}, {"pretokenizers", SortedJson::array()}};
  for (int i = 0; i < 60; ++i) chain["pretokenizers"].push_back(doubling);
  const SortedJson mark = {{"type", "Metaspace"}, {"replacement", std::string(1 << 20, 'x')}};
  for (const auto& [json, name] : {std::pair(chain, "test.pretokenizers["), {mark, "test"}}) {
    const std::string message = message_of(
        ErrorCode::unsupported, [&] { words(json.dump().c_str(), std::string(1000, ' ')); });
    EXPECT_TRUE(message.starts_with(name)) << message;
  }
}

TEST(PreTokenizer, OnlyALastAndSingleByteLevelCanUseBytes) {
  const auto can = [](const char* json) {
    const SortedJson parsed = SortedJson::parse(json);
    return PreTokenizer(Component{parsed, "test"}).can_use_bytes();
  };
  EXPECT_TRUE(can(R"({"type": "ByteLevel"})"));
  EXPECT_FALSE(can(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
                                                             {"type": "Digits"}]})"));
  EXPECT_FALSE(can(R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"},
                                                             {"type": "ByteLevel"}]})"));
}

}  // namespace
}  // namespace osp::tokenizer
