#include "osp/base/json.h"

#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <vector>

#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

std::string error_of(std::string_view text, int max_depth = 64) {
  try {
    parse_json(text, "file.json", max_depth);
    return "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::damaged);
    return error.what();
  }
}

std::string repeated(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

TEST(ParseJson, AcceptsEveryKindOfValueAndKeepsTheOrderOfKeys) {
  const Json value = parse_json(
      " {\"z\": [1, -2, 2.5, 1e3, true, false, null], \"a\": {\"\": \"\\u00e9\\ud83d\\ude00\\n\"}} "
      "\n",
      "w");
  EXPECT_EQ(value.dump(), R"({"z":[1,-2,2.5,1000.0,true,false,null],"a":{"":"é😀\n"}})");
  EXPECT_EQ(parse_json("7", "w"), 7);
  EXPECT_EQ(parse_json("\t\"x\"\r\n", "w"), "x");
  EXPECT_TRUE(parse_json("{}", "w").is_object());
  EXPECT_TRUE(parse_json("[]", "w").is_array());
}

TEST(ParseJson, IntegersKeepAll64BitsAndLargerOnesBecomeNumbers) {
  EXPECT_EQ(parse_json("18446744073709551615", "w").get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(parse_json("-9223372036854775808", "w").get<int64_t>(), INT64_MIN);
  EXPECT_TRUE(parse_json("18446744073709551616", "w").is_number_float());
}

TEST(ParseJson, RefusesWhatIsNotJson) {
  const std::vector<std::string> refused = {
      "",        " ",         "{",        "[1,",      "[1,]",     "{\"a\":1,}", "{'a':1}", "{a:1}",
      "[1 2]",   "{\"a\" 1}", "nul",      "NaN",      "Infinity", "-",          "01",      "+1",
      "1.",      ".5",        "1e",       "0x10",     "// c\n1",  "/* c */1",   "1 // c",  "\"a",
      "\"\\x\"", "\"\\u12\"", "\"a\nb\"", "\"a\tb\"", "1e999",    "{}{}",       "1 2",     "[]]"};
  for (const std::string& text : refused) {
    const std::string message = error_of(text);
    EXPECT_EQ(message.rfind("file.json: ", 0), 0u) << text << " -> " << message;
    EXPECT_NE(message.find("at byte"), std::string::npos) << text << " -> " << message;
  }
}

TEST(ParseJson, RefusesByteOrderMarkAndNulBytes) {
  EXPECT_NE(error_of("\xEF\xBB\xBF{}").find("byte order mark"), std::string::npos);
  using namespace std::string_literals;
  for (const std::string& text : {"{}\0"s, "\0{}"s, "{}\0{}"s, "\"a\0b\""s}) {
    EXPECT_NE(error_of(text).find("NUL byte in JSON text at byte "), std::string::npos);
  }
  EXPECT_EQ(parse_json("\"a\\u0000b\"", "w").get<std::string>(), "a\0b"s);
}

TEST(ParseJson, RefusesInvalidUtf8AndLoneSurrogates) {
  const std::vector<std::string> refused = {"\"\x80\"",          // continuation without a start
                                            "\"\xC3\"",          // start without a continuation
                                            "\"\xC0\xAF\"",      // two bytes where one would do
                                            "\"\xE0\x80\x80\"",  // three bytes where one would do
                                            "\"\xED\xA0\x80\"",  // a surrogate written in UTF-8
                                            "\"\xF4\x90\x80\x80\"",  // beyond U+10FFFF
                                            "\"\xFF\"",
                                            "\"\\ud800\"",
                                            "\"\\udc00\"",
                                            "\"\\ud800x\"",
                                            "\"\\ud800\\u0041\"",
                                            "\"\\ud800\\ud800\"",
                                            "\"\\udc00\\ud800\"",
                                            "{\"\\ud800\":1}"};
  for (const std::string& text : refused) EXPECT_NE(error_of(text), "accepted") << text;
  EXPECT_EQ(error_of("\"\xF4\x8F\xBF\xBF \xED\x9F\xBF\""), "accepted");
}

TEST(ParseJson, RefusesDuplicateKeysAnywhere) {
  const std::vector<std::string> refused = {R"({"a":1,"a":1})", R"({"a":1,"b":2,"a":3})",
                                            R"([{"x":{"k":1,"k":2}}])", R"({"a":1,"\u0061":2})",
                                            R"({"":1,"":2})"};
  for (const std::string& text : refused) {
    EXPECT_NE(error_of(text).find("duplicate key"), std::string::npos) << text;
  }
  EXPECT_NE(error_of(R"([{"ab":1,"ab":2}])").find("duplicate key \"ab\""), std::string::npos);
  EXPECT_NE(error_of(R"([{"ab":1,"ab":2}])").find("ends at byte 16"), std::string::npos);
  EXPECT_EQ(error_of(R"({"a":{"a":1},"b":{"a":1}})"), "accepted");
}

TEST(ParseJson, DepthLimitIsInclusiveAndCountsArraysAndObjects) {
  EXPECT_EQ(error_of(repeated("[", 64) + repeated("]", 64)), "accepted");
  EXPECT_NE(error_of(repeated("[", 65) + repeated("]", 65)).find("deeper than 64"),
            std::string::npos);
  EXPECT_EQ(error_of("[{\"a\":[]}]", 3), "accepted");
  EXPECT_NE(error_of("[{\"a\":[]}]", 2), "accepted");
  EXPECT_EQ(error_of("1", 0), "accepted");
}

TEST(ParseJson, MillionsOfBracketsDoNotExhaustTheStack) {
  EXPECT_NE(error_of(std::string(3'000'000, '[')).find("deeper than 64"), std::string::npos);
  EXPECT_NE(error_of(repeated("{\"a\":", 1'000'000)).find("deeper than 64"), std::string::npos);
  const std::string deep = std::string(200'000, '[') + std::string(200'000, ']');
  EXPECT_EQ(error_of(deep, 1'000'000), "accepted");
}

// Processor seconds to parse an object of `count` keys.
double seconds_for_keys(int count) {
  std::string text = "{";
  for (int i = 0; i < count; ++i) text += fmt::format("{}\"key{}\":{}", i ? "," : "", i, i);
  text += "}";
  const std::clock_t start = std::clock();
  EXPECT_EQ(parse_json(text, "w").size(), static_cast<size_t>(count));
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

TEST(ParseJson, ManyKeysTakeNoQuadraticTime) {
  // Ten times the keys take about 10 times as long; a search among the keys for each would take 100
  // times. The added 20 ms cover the clock's granularity.
  const double few = seconds_for_keys(20'000);
  EXPECT_LT(seconds_for_keys(200'000), 40 * (few + 0.02));
}

TEST(ParseJson, MessagesAreShortAndPrintableWhateverTheInput) {
  const std::string message = error_of("[\"" + std::string(100'000, 'x') + "\x01");
  EXPECT_LT(message.size(), 300u);
  for (const std::string& text : {std::string("[\x1b[31m"), std::string("{\"\x1b\":1}")}) {
    EXPECT_EQ(error_of(text).find('\x1b'), std::string::npos);
  }
}

TEST(ReadJsonFile, NamesTheFileAndHonoursTheLimit) {
  const TestFolder folder;
  write_file_atomic(folder / "a.json", "{\"a\": 1}");
  EXPECT_EQ(read_json_file(folder / "a.json")["a"], 1);
  EXPECT_THROW(read_json_file(folder / "a.json", 7), Error);
  EXPECT_THROW(read_json_file(folder / "absent.json"), Error);
  write_file_atomic(folder / "b.json", "{");
  const std::string message =
      message_of(ErrorCode::damaged, [&] { read_json_file(folder / "b.json"); });
  EXPECT_TRUE(message.starts_with(folder / "b.json")) << message;
}

TEST(JsonAccess, ReturnsValuesOfTheRightType) {
  const Json o = parse_json(R"({"i":-3,"n":2.5,"b":true,"s":"x"})", "w");
  EXPECT_EQ(json_int(o, "i", "w"), -3);
  EXPECT_EQ(json_number(o, "n", "w"), 2.5);
  EXPECT_EQ(json_number(o, "i", "w"), -3.0);
  EXPECT_TRUE(json_bool(o, "b", "w"));
  EXPECT_EQ(json_string(o, "s", "w"), "x");
}

TEST(JsonAccess, RefusesWrongTypesMissingKeysAndLargeIntegers) {
  const Json o = parse_json(R"({"n":2.0,"u":9223372036854775808,"s":"1","z":null})", "w");
  EXPECT_THROW(json_int(o, "n", "w"), Error);
  EXPECT_THROW(json_int(o, "u", "w"), Error);
  EXPECT_THROW(json_int(o, "s", "w"), Error);
  EXPECT_THROW(json_number(o, "s", "w"), Error);
  EXPECT_THROW(json_bool(o, "z", "w"), Error);
  EXPECT_THROW(json_string(o, "n", "w"), Error);
  EXPECT_THROW(json_int(Json::array(), "n", "w"), Error);
  EXPECT_EQ(message_of(ErrorCode::damaged, [&] { json_int(o, "layers", "config.json"); }),
            "config.json: key \"layers\" is missing");
}

TEST(Json, BytesThatAreNotUtf8NeverStopTheWritingOfAResult) {
  const Json json = {{"path", "caf\xe9.txt"}, {"list", {"\xff"}}};
  EXPECT_EQ(json_text(json), "{\"path\":\"caf\xEF\xBF\xBD.txt\",\"list\":[\"\xEF\xBF\xBD\"]}");
  EXPECT_EQ(json_text({{"a", 1}}, 1), Json({{"a", 1}}).dump(1));
}

}  // namespace
}  // namespace osp
