#include "osp/tokenizer/decoder.h"

#include <gtest/gtest.h>

namespace osp::tokenizer {
namespace {

using Strings = std::vector<std::string>;

std::string decode(const char* json, const Strings& tokens, bool inside = false) {
  const SortedJson parsed = SortedJson::parse(json);
  return Decoder(Component{parsed, "test"}).decode(tokens, inside);
}

constexpr const char* kLlama = R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "_"}, "content": " "}, {"type": "ByteFallback"},
    {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";

TEST(Decoder, WithoutOneTokensAreJoinedBySpaces) { EXPECT_EQ(Decoder().decode({"a", "b"}), "a b"); }

TEST(Decoder, ByteLevelGivesBytesAsTheyAreAndLeavesOtherTokensAlone) {
  constexpr const char* kJson = R"({"type": "ByteLevel"})";
  EXPECT_EQ(decode(kJson, {"\xC4\xA0"
                           "a",
                           "\xC3\x83\xC2\xA9"}),
            " a\xC3\xA9");
  EXPECT_EQ(decode(kJson, {"\xC3\x83"}), "\xC3");
  EXPECT_EQ(decode(kJson, {"a b\xE2\x96\x81"}), "a b\xE2\x96\x81");
}

TEST(Decoder, ByteTokensBecomeCharactersOrOneReplacementEach) {
  EXPECT_EQ(decode(kLlama, {"_a", "<0xC3>", "<0xa9>", "_b"}), "a\xC3\xA9 b");
  EXPECT_EQ(decode(kLlama, {"<0xC3>", "b", "<0xE2>", "<0x96>"}),
            "\xEF\xBF\xBD"
            "b\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(decode(kLlama, {"<0xG0>", "<0x1>", "<0x111>"}), "<0xG0><0x1><0x111>");
}

TEST(Decoder, OnlyTheStartOfTheTextLosesItsSpace) {
  EXPECT_EQ(decode(kLlama, {"__a"}), " a");
  EXPECT_EQ(decode(kLlama, {"_a"}, true), " a");
}

TEST(Decoder, MetaspaceDropsTheFirstMarkUnlessNoneWasPrepended) {
  constexpr const char* kAlways =
      R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"})";
  EXPECT_EQ(decode(kAlways, {"_a_b", "_c"}), "ab c");
  EXPECT_EQ(decode(kAlways, {"_a"}, true), " a");
  EXPECT_EQ(decode(R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"})",
                   {"_a", "_c"}),
            " a c");
}

TEST(Decoder, StripTakesAtMostWhatItIsTold) {
  constexpr const char* kJson = R"({"type": "Strip", "content": "x", "start": 2, "stop": 1})";
  EXPECT_EQ(decode(kJson, {"xxxaxx", "x", ""}), "xax");
}

// Half a character at the end, behind bytes that look like the start of a longer one.
TEST(Decoder, RegularExpressionsSeeRepairedTextWhereTokensAreHalfCharacters) {
  constexpr const char* kJson = R"({"type": "Sequence", "decoders": [{"type": "ByteLevel"},
      {"type": "Replace", "pattern": {"Regex": ".$"}, "content": "!"}]})";
  EXPECT_EQ(decode(kJson, {"a", "\xC3\xB0"}), "a!");             // F0
  EXPECT_EQ(decode(kJson, {"\xC3\xB0", "a"}), "\xEF\xBF\xBD!");  // F0 61
  EXPECT_EQ(decode(kJson, {"\xC3\x83\xC2\xA9"}), "!");           // C3 A9, one character
}

TEST(Decoder, StepsThatMultiplyTheTextAreRefused) {
  SortedJson chain = {{"type", "Sequence"}, {"decoders", SortedJson::array()}};
  for (int i = 0; i < 60; ++i) {
    chain["decoders"].push_back(
        SortedJson::parse(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})"));
  }
  EXPECT_THROW(decode(chain.dump().c_str(), Strings(1000, "a")), Error);
}

TEST(Decoder, UnknownTypeAndWrongNumbersAreErrors) {
  EXPECT_THROW(decode(R"({"type": "CTC"})", {}), Error);
  EXPECT_THROW(decode(R"({"type": "Strip", "content": "x", "start": -1, "stop": 0})", {}), Error);
  EXPECT_THROW(decode(R"({"type": "Strip", "content": "", "start": 1, "stop": 0})", {}), Error);
  EXPECT_THROW(decode(R"({"type": "Replace", "pattern": {}, "content": ""})", {}), Error);
}

}  // namespace
}  // namespace osp::tokenizer
