#include "osp/tokenizer/regex.h"

#include <gtest/gtest.h>

#include <thread>

#include "osp/base/test_error.h"
#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

std::vector<std::string> matches(const std::string& pattern, std::string_view text) {
  std::vector<std::string> found;
  Regex(pattern, "test").for_each_match(text, [&](size_t begin, size_t end) {
    found.emplace_back(text.substr(begin, end - begin));
  });
  return found;
}

using Strings = std::vector<std::string>;

TEST(Regex, WhiteSpaceIsTheUnicodeProperty) {
  EXPECT_EQ(matches(R"(\s)", "a\xC2\x85 \xE1\xA0\x8E\xE3\x80\x80"),
            (Strings{"\xC2\x85", " ", "\xE3\x80\x80"}));  // not U+180E
  EXPECT_EQ(matches(R"([^\s]+)", "a\xE1\xA0\x8E b"), (Strings{"a\xE1\xA0\x8E", "b"}));
  EXPECT_EQ(matches(R"([\S]+)", "ab cd"), (Strings{"ab", "cd"}));
}

TEST(Regex, EscapesMeanWhatOnigurumaMeans) {
  EXPECT_EQ(matches(R"(\w+)", "e\xCC\x81_1 \xC2\xB2-"), (Strings{"e\xCC\x81_1", "\xC2\xB2"}));
  EXPECT_EQ(matches(R"(\h+)", "fE9 g"), (Strings{"fE9"}));  // hexadecimal, not horizontal space
  EXPECT_EQ(matches(R"(\W+)", "a, b"), (Strings{", "}));
  EXPECT_EQ(matches("^b$", "a\nb\nc"), (Strings{"b"}));  // lines
  EXPECT_EQ(matches(R"(\v)", "\n\x0B"), (Strings{"\x0B"}));
  EXPECT_EQ(translate_pattern(R"(\p{Han}\p{L}\p{Lu})", "test"), R"(\p{sc:Han}\p{L}\p{Lu})");
}

TEST(Regex, EmptyMatchesAdvanceAndDoNotFollowAMatch) {
  EXPECT_EQ(matches("x*", "axxb\xC3\xA9"), (Strings{"", "xx", "", ""}));
  EXPECT_EQ(matches("", ""), (Strings{""}));
}

TEST(Regex, WhatCannotBeTranslatedIsRefusedByName) {
  for (const char* pattern :
       {R"(\b)", R"([a&&b])", R"([a[bc]])", R"([[:alpha:]])", R"((?m).)", R"(a{,3})", R"([\W])",
        R"(\Ka)", R"(\1)", R"(a\)", R"(\pL)", R"([])", R"((?m:.))"}) {
    SCOPED_TRACE(pattern);
    expect_error(ErrorCode::unsupported, {"test.json: pattern"},
                 [&] { Regex(pattern, "test.json: pattern"); });
  }
}

TEST(Regex, BrokenOrHugePatternsAreErrors) {
  const std::string nested = std::string(5000, '(') + std::string(5000, ')');
  for (const std::string& pattern :
       {std::string("("), std::string("[a"), std::string("*"), nested, std::string(1 << 17, 'a'),
        std::string("((a{999}){999}){999}")}) {
    EXPECT_THROW(Regex(pattern, "test"), Error);
  }
}

TEST(Regex, RunawayMatchingEndsInAnError) {
  EXPECT_THROW(matches("(a+)+$", std::string(200, 'a') + "b"), Error);
}

TEST(Regex, LongRunsNeedNoStack) {
  const std::string text(1 << 20, 'a');
  EXPECT_EQ(matches(R"(\p{L}+)", text), (Strings{text}));
  EXPECT_EQ(matches(R"((?:a|b)+)", text).size(), 1u);
}

TEST(Regex, ThreadsShareAPattern) {
  const Regex regex(R"(\p{L}+|\p{N}{1,3})", "test");
  std::vector<size_t> counts(4, 0);
  std::vector<std::thread> threads;
  for (size_t& count : counts) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        regex.for_each_match("abc 12345 def", [&](size_t, size_t) { ++count; });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counts, std::vector<size_t>(4, 800));
}

}  // namespace
}  // namespace osp::tokenizer
