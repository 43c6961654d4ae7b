#include "osp/template/text.h"

#include <gtest/gtest.h>

namespace osp::jinja {
namespace {

using Parts = std::vector<std::string>;

TEST(TemplateText, CaseIsThatOfPython) {
  EXPECT_EQ(upper("straße ﬁn ŉ"), "STRASSE FIN ʼN");
  EXPECT_EQ(lower("ΑΣ ΣΑ İ"), "ας σα i̇");
  EXPECT_EQ(capitalize("éTÉ"), "Été");
  EXPECT_EQ(capitalize("ßA"), "Ssa");
  EXPECT_EQ(python_title("it's a1b"), "It'S A1B");
  EXPECT_EQ(jinja_title("it's a-b (c d"), "It's A-B (C D");
}

TEST(TemplateText, WhiteSpaceIsThatOfPython) {
  EXPECT_EQ(strip("\x1c"
                  "\u3000 a \u00a0\u0085",
                  std::nullopt),
            "a");
  EXPECT_EQ(strip("xéaéx", "éx"), "a");
  EXPECT_EQ(strip("xéaéx", "éx", {.right = false}), "aéx");
}

TEST(TemplateText, SplittingKeepsWhatPythonKeeps) {
  EXPECT_EQ(split(" a  b ", std::nullopt, -1), (Parts{"a", "b"}));
  EXPECT_EQ(split(" a  b c ", std::nullopt, 1), (Parts{"a", "b c"}));
  EXPECT_EQ(split(",a,,b", ",", -1), (Parts{"", "a", "", "b"}));
  EXPECT_EQ(split("a,b,c", ",", 1), (Parts{"a", "b,c"}));
  EXPECT_EQ(split_right("a,b,c", ",", 1), (Parts{"a,b", "c"}));
  EXPECT_EQ(split_lines("a\r\nb\u2028c\n", false), (Parts{"a", "b", "c"}));
}

TEST(TemplateText, ReplacingAndCountingTheEmptyText) {
  EXPECT_EQ(replace("né", "", "-", -1), "-n-é-");
  EXPECT_EQ(replace("né", "", "-", 1), "-né");
  EXPECT_EQ(replace("aaa", "a", "b", 2), "bba");
  EXPECT_EQ(count("né", ""), 3u);
  EXPECT_EQ(count("aaaa", "aa"), 2u);
}

}  // namespace
}  // namespace osp::jinja
