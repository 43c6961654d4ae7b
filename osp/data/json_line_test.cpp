#include "osp/data/json_line.h"

#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/test_error.h"

namespace osp {
namespace {

struct BadLine {
  const char* reason;
  std::string line;
  std::optional<std::string> repaired;  // nothing: it cannot be
};

std::vector<BadLine> bad_lines() {
  return {
      {"lone_surrogate", R"({"text":"x \ud83d y"})", "x \uFFFD y"},
      {"lone_surrogate", R"({"text":"\udc00\ud83d\u0041"})", "\uFFFD\uFFFDA"},
      {"lone_surrogate", R"({"n":1e999,"text":"\ud83d\ud83d\ude00"})", "\uFFFD\U0001F600"},
      {"not_utf8", "{\"text\":\"a\xFF\"}", "a\uFFFD"},
      {"not_utf8", "{\"text\":\"\xED\xA0\x80\"}", "\uFFFD\uFFFD\uFFFD"},
      {"control_character", "{\"text\":\"a\x01\tb\"}", "a\x01\tb"},
      {"control_character", std::string("{\"text\":\"a\0b\"}", 14), std::string("a\0b", 3)},
      {"bad_escape", R"({"text":"a\q\u12"})", "a\\q\\u12"},
      {"field_twice", R"({"text":"a","text":"b"})", "b"},
      {"field_twice", R"({"\u0074ext":"a","text":"b"})", "b"},
      {"byte_order_mark", "\xEF\xBB\xBF{\"text\":\"a\"}", "a"},
      {"no_field", R"({"body":"a"})", {}},
      {"no_field", R"({"body":NaN})", {}},
      {"no_field", "{}", {}},
      {"not_a_string", R"({"text":3})", {}},
      {"not_a_string", R"({"text":NaN})", {}},
      {"not_a_string", R"({"text":["a"],"n":NaN})", {}},
      {"not_an_object", R"({"text":"a)", {}},
      {"not_an_object", R"({"text":"a"} x)", {}},
      {"not_an_object", R"({"text":"a",})", {}},
      {"not_an_object", R"([1])", {}},
      {"not_an_object", "text", {}},
  };
}

TEST(JsonLine, EachKindOfBadLineStopsIsLeftOutOrRepaired) {
  for (const BadLine& c : bad_lines()) {
    SCOPED_TRACE(c.line);
    const auto read = [&](OnBadLine policy, BadLines& bad) {
      return json_line_text(c.line, {.field = "text", .on_bad_line = policy}, "f", 7, bad);
    };
    BadLines bad;
    expect_error(ErrorCode::damaged, {"f: line 7: "}, [&] { read(OnBadLine::stop, bad); });
    EXPECT_TRUE(bad.skipped.empty() && bad.repaired.empty());
    EXPECT_EQ(read(OnBadLine::skip, bad), std::nullopt);
    EXPECT_EQ(bad.skipped, (LineCounts{{c.reason, 1}}));
    bad = {};
    EXPECT_EQ(read(OnBadLine::repair, bad), c.repaired);
    EXPECT_EQ(c.repaired ? bad.repaired : bad.skipped, (LineCounts{{c.reason, 1}}));
    EXPECT_TRUE((c.repaired ? bad.skipped : bad.repaired).empty());
  }
}

TEST(JsonLine, FieldsThatNobodyReadAreNotJudgedUnderAnyPolicy) {
  for (const std::string& other : {std::string(R"("n":1e999)"), std::string(R"("n":NaN)"),
                                   std::string(R"("s":"\ud83d")"), std::string(R"("a":1,"a":2)"),
                                   std::string(R"("\ud83d":1)"), std::string("\"b\":\"\xff\x01\""),
                                   "\"d\":" + std::string(5000, '[') + std::string(5000, ']')}) {
    for (const OnBadLine policy : {OnBadLine::stop, OnBadLine::skip, OnBadLine::repair}) {
      for (const char* name : {"text", "\\u0074ext"}) {
        BadLines bad;
        const std::string line = fmt::format("{{\"{}\":\"fine\",{}}}", name, other);
        EXPECT_EQ(json_line_text(line, {.field = "text", .on_bad_line = policy}, "f", 1, bad),
                  "fine")
            << line.substr(0, 40);
        EXPECT_TRUE(bad.skipped.empty() && bad.repaired.empty());
      }
    }
  }
}

TEST(JsonLine, AnObjectKeepsWhatItsOddFieldsLeave) {
  const Json object = json_line_fields(R"({"q":"a","n":NaN,"c":[1],"k":1,"k":2})", {"q", "c"}, "f");
  EXPECT_EQ(object["q"], "a");
  EXPECT_EQ(object["c"][0], 1);
  EXPECT_FALSE(object.contains("n"));
  expect_error(ErrorCode::damaged, {"field \"q\""},
               [] { json_line_fields(R"({"q":"\ud83d"})", {"q"}, "f"); });
}

}  // namespace
}  // namespace osp
