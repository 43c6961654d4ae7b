#include "osp/tokenizer/normalizer.h"

#include <gtest/gtest.h>

#include <ctime>

#include "osp/base/test_error.h"

namespace osp::tokenizer {
namespace {

std::string normalize(const std::string& json, std::string text) {
  const SortedJson parsed = SortedJson::parse(json);
  Growth growth(text.size());
  return Normalizer(Component{parsed, "test"}).apply(std::move(text), growth);
}

TEST(Normalizer, FormsOfUnicodeAreThoseOfTheStandard) {
  // U+1E9B U+0323, the example of UAX 15 for all four forms.
  const std::string text = "\xE1\xBA\x9B\xCC\xA3";
  EXPECT_EQ(normalize(R"({"type": "NFC"})", text), "\xE1\xBA\x9B\xCC\xA3");
  EXPECT_EQ(normalize(R"({"type": "NFD"})", text), "\xC5\xBF\xCC\xA3\xCC\x87");
  EXPECT_EQ(normalize(R"({"type": "NFKC"})", text), "\xE1\xB9\xA9");
  EXPECT_EQ(normalize(R"({"type": "NFKD"})", text), "s\xCC\xA3\xCC\x87");
}

TEST(Normalizer, HangulComposes) {
  EXPECT_EQ(normalize(R"({"type": "NFC"})", "\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB"),
            "\xED\x95\x9C");
}

// Alternating classes of marks: sorting them by exchange of neighbours would take 10^11 steps.
TEST(Normalizer, AMebibyteOfUnorderedMarksTakesBoundedTime) {
  std::string text = "a";
  while (text.size() < (1 << 20)) text += "\xCC\x81\xCC\xA3";
  const std::clock_t start = std::clock();  // processor time: independent of other load
  const std::string out = normalize(R"({"type": "NFC"})", text);
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 10);  // 0.1 s when idle, 20 times that under sanitizers
  EXPECT_TRUE(out.starts_with("\xE1\xBA\xA1\xCC\xA3\xCC\xA3"));  // a with dot below, then dots
  EXPECT_TRUE(out.ends_with("\xCC\x81\xCC\x81"));
}

TEST(Normalizer, StepsRunInOrder) {
  EXPECT_EQ(normalize(R"({"type": "Sequence", "normalizers": [
                          {"type": "Prepend", "prepend": "_"},
                          {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
                          {"type": "Replace", "pattern": {"Regex": "_{2,}"}, "content": "-"},
                          {"type": "Lowercase"}]})",
                      "A  B"),
            "_a-b");
}

TEST(Normalizer, PrependLeavesNothingAlone) {
  EXPECT_EQ(normalize(R"({"type": "Prepend", "prepend": "_"})", ""), "");
}

TEST(Normalizer, StripKnowsUnicodeWhiteSpace) {
  const std::string text = "\xE3\x80\x80 \xC2\xA0x y\xC2\x85\n";
  EXPECT_EQ(normalize(R"({"type": "Strip", "strip_left": true, "strip_right": true})", text),
            "x y");
  EXPECT_EQ(normalize(R"({"type": "Strip", "strip_left": false, "strip_right": true})", " x "),
            " x");
}

TEST(Normalizer, LowercaseOfDottedCapitalIIsTwoCharacters) {
  EXPECT_EQ(normalize(R"({"type": "Lowercase"})", "\xC4\xB0\xC3\x89Z"), "i\xCC\x87\xC3\xA9z");
}

TEST(Normalizer, StepsThatMultiplyTheTextAreRefusedByName) {
  SortedJson doubling =
      SortedJson::parse(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})");
  SortedJson chain = {{"type", "Sequence"}, {"normalizers", SortedJson::array()}};
  for (int i = 0; i < 60; ++i) chain["normalizers"].push_back(doubling);
  SortedJson at_once = doubling;
  at_once["content"] = std::string(1 << 20, 'a');
  const SortedJson prefix = {{"type", "Prepend"}, {"prepend", std::string(2 << 20, 'a')}};
  for (const auto& [json, name] :
       {std::pair(chain, "test.normalizers["), {at_once, "test"}, {prefix, "test"}}) {
    const std::string message =
        message_of(ErrorCode::unsupported, [&] { normalize(json.dump(), std::string(1000, 'a')); });
    EXPECT_TRUE(message.starts_with(name)) << message;
  }
}

TEST(Normalizer, TheLimitIsForTheWholeInputNotForEachPart) {
  const SortedJson json = {{"type", "Prepend"}, {"prepend", std::string(1 << 19, 'a')}};
  const Normalizer normalizer(Component{json, "test"});
  Growth growth(2);
  EXPECT_EQ(normalizer.apply("b", growth).size(), (1u << 19) + 1);
  normalizer.apply("b", growth);
  EXPECT_THROW(normalizer.apply("b", growth), Error);
}

TEST(Normalizer, UnknownTypeIsNamed) {
  expect_error(ErrorCode::unsupported, {"\"Precompiled\""},
               [] { normalize(R"({"type": "Precompiled"})", ""); });
}

}  // namespace
}  // namespace osp::tokenizer
