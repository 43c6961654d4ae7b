// The reader's rules as two tables of whole files (docs/formats.md, "safetensors"), each refusal
// with the reason that the message must give, and the writer against the reader.
#include "osp/formats/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

using std::string_literals::operator""s;

struct Parsed {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};

// A file with a header length of its own choice.
std::string file_with_length(uint64_t length, const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

std::string file_of(const std::string& header, const std::string& data = "") {
  return file_with_length(header.size(), header, data);
}

// {"dtype":…,"shape":…,"data_offsets":…} from the texts of its values.
std::string fields(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

// A header of one tensor "a".
std::string one(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"a":)" + fields(dtype, shape, offsets) + "}";
}

void parse(const std::string& bytes, Parsed& out) {
  parse_safetensors(std::as_bytes(std::span(bytes)), "file", out.tensors, out.metadata);
}

// The error's message, or "accepted".
std::string refusal(const std::string& bytes) {
  Parsed parsed;
  try {
    parse(bytes, parsed);
    return "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::damaged);
    return error.what();
  }
}

struct Malformed {
  const char* name;
  std::string bytes;
  const char* reason;  // a part of the message
};

std::vector<Malformed> malformed_files() {
  const std::string good = one("F32", "[1]", "[0,4]"), data = "abcd";
  const std::string byte0 = fields("U8", "[1]", "[0,1]"), byte1 = fields("U8", "[1]", "[1,2]");
  const std::string two_bytes = fields("U8", "[2]", "[0,2]");
  return {
      {"empty file", "", "too few"},
      {"seven bytes", "\2\0\0\0\0\0\0"s, "too few"},
      {"header length 0", file_of(""), "not valid JSON"},
      {"header one byte longer than the file", file_with_length(3, "{}", ""), "truncated"},
      {"header above 100 MB", file_with_length(100'000'001, "{}", ""), "the limit is 100000000"},
      {"header of 2^63 bytes", file_with_length(uint64_t{1} << 63, "{}", ""), "the limit is"},
      {"header of 2^64-1 bytes", file_with_length(~uint64_t{0}, "{}", ""), "the limit is"},
      {"array for a header", file_of("[]"), "expected an object"},
      {"null for a header", file_of("null"), "expected an object"},
      {"string for a header", file_of("\"a\""), "expected an object"},
      {"not JSON", file_of("{\"a\":"), "not valid JSON"},
      {"byte order mark", file_of("\xEF\xBB\xBF" + good, data), "byte order mark"},
      {"NUL after the header", file_of(good + "\0"s, data), "NUL byte"},
      {"second value after the header", file_of(good + "{}", data), "not valid JSON"},
      {"invalid UTF-8 in a name", file_of("{\"\xC3\x28\":" + byte0 + "}", "a"), "not valid JSON"},
      {"lone surrogate in a name", file_of(R"({"\ud800":)" + byte0 + "}", "a"), "not valid JSON"},
      {"nesting 10,000 deep",
       file_of(R"({"a":)" + std::string(10'000, '[') + std::string(10'000, ']') + "}"), "deeper"},
      {"first name twice",
       file_of(R"({"a":)" + byte0 + R"(,"b":)" + byte1 + R"(,"a":)" + byte0 + "}", "ab"),
       "duplicate key"},
      {"last name twice",
       file_of(R"({"a":)" + byte0 + R"(,"b":)" + byte1 + R"(,"b":)" + byte1 + "}", "ab"),
       "duplicate key"},
      {"__metadata__ twice", file_of(R"({"__metadata__":{},"__metadata__":{}})"), "duplicate key"},
      {"metadata key twice", file_of(R"({"__metadata__":{"k":"1","k":"2"}})"), "duplicate key"},
      {"field twice",
       file_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "a"),
       "duplicate key"},
      {"unknown dtype", file_of(one("F31", "[1]", "[0,4]"), data), "unknown dtype \"F31\""},
      {"dtype in lower case", file_of(one("f32", "[1]", "[0,4]"), data), "unknown dtype"},
      {"dtype a number", file_of(R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", data),
       "dtype is not a string"},
      {"dtype missing", file_of(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", data),
       "dtype is missing"},
      {"shape missing", file_of(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", data),
       "shape is missing"},
      {"offsets missing", file_of(R"({"a":{"dtype":"F32","shape":[1]}})", data),
       "data_offsets is missing"},
      {"tensor a number", file_of(R"({"a":1})"), "not an object"},
      {"tensor an array", file_of(R"({"a":["F32",[1],[0,4]]})", data), "not an object"},
      {"shape a number", file_of(one("F32", "1", "[0,4]"), data), "shape is not an array"},
      {"negative dimension", file_of(one("F32", "[-1]", "[0,4]"), data), "dimension is not"},
      {"negative zero", file_of(one("F32", "[-0]", "[0,0]")), "dimension is not"},
      {"fractional dimension", file_of(one("F32", "[1.0]", "[0,4]"), data), "dimension is not"},
      {"dimension with exponent", file_of(one("F32", "[1e0]", "[0,4]"), data), "dimension is not"},
      {"text for a dimension", file_of(one("F32", "[\"1\"]", "[0,4]"), data), "dimension is not"},
      {"null for a dimension", file_of(one("F32", "[null]", "[0,4]"), data), "dimension is not"},
      {"dimension of 2^64", file_of(one("F32", "[18446744073709551616]", "[0,4]"), data),
       "dimension is not"},
      {"dimension of 2^64 beside a zero", file_of(one("F32", "[0,18446744073709551616]", "[0,0]")),
       "dimension is not"},
      {"dimension of 2^63", file_of(one("F32", "[9223372036854775808]", "[0,4]"), data),
       "too large"},
      {"negative begin", file_of(one("F32", "[1]", "[-4,0]"), data), "offset is not"},
      {"negative end", file_of(one("F32", "[1]", "[0,-4]"), data), "offset is not"},
      {"fractional offset", file_of(one("F32", "[1]", "[0,4.0]"), data), "offset is not"},
      {"text for an offset", file_of(one("F32", "[1]", "[\"0\",4]"), data), "offset is not"},
      {"offset of 2^64", file_of(one("F32", "[1]", "[0,18446744073709551616]"), data),
       "offset is not"},
      {"one offset", file_of(one("F32", "[1]", "[4]"), data), "not [begin, end]"},
      {"three offsets", file_of(one("F32", "[1]", "[0,4,4]"), data), "not [begin, end]"},
      {"shape [2^32, 2^32]", file_of(one("F32", "[4294967296,4294967296]", "[0,0]")), "64 bits"},
      {"shape [2^63, 2^63, 0]",
       file_of(one("F32", "[9223372036854775808,9223372036854775808,0]", "[0,0]")), "too large"},
      {"shape [2^62, 2^62, 0]",
       file_of(one("F32", "[4611686018427387904,4611686018427387904,0]", "[0,0]")), "64 bits"},
      {"shape whose bits overflow", file_of(one("F32", "[1152921504606846976]", "[0,0]")),
       "64 bits"},
      {"half a byte", file_of(one("F4", "[3]", "[0,2]"), "ab"), "whole bytes"},
      {"end before begin", file_of(one("F32", "[1]", "[4,0]"), data), "not a range"},
      {"end beyond the data", file_of(one("F32", "[2]", "[0,8]"), data), "not a range"},
      {"begin and end beyond the data", file_of(one("U8", "[0]", "[9,9]"), data), "not a range"},
      {"truncated data", file_of(one("F32", "[1]", "[0,4]"), "abc"), "not a range"},
      {"size smaller than the shape", file_of(one("F32", "[2]", "[0,4]"), data), "takes 8"},
      {"size larger than the shape", file_of(one("F16", "[1]", "[0,4]"), data), "takes 2"},
      {"partial overlap",
       file_of(R"({"a":)" + two_bytes + R"(,"b":)" + fields("U8", "[2]", "[1,3]") + "}", "abc"),
       "inside the tensor"},
      {"full overlap", file_of(R"({"a":)" + two_bytes + R"(,"b":)" + two_bytes + "}", "ab"),
       "inside the tensor"},
      {"empty tensor inside another",
       file_of(R"({"a":)" + two_bytes + R"(,"b":)" + fields("U8", "[0]", "[1,1]") + "}", "ab"),
       "inside the tensor"},
      {"hole at the start", file_of(one("U8", "[1]", "[1,2]"), "ab"), "leaving a hole from byte 0"},
      {"hole in the middle",
       file_of(R"({"a":)" + byte0 + R"(,"b":)" + fields("U8", "[1]", "[2,3]") + "}", "abc"),
       "leaving a hole from byte 1"},
      {"bytes after the last tensor", file_of(good, data + "x"), "belong to no tensor"},
      {"data without tensors", file_of("{}", "x"), "belong to no tensor"},
      {"metadata value a number", file_of(R"({"__metadata__":{"k":1}})"), "not a string"},
      {"metadata value an object", file_of(R"({"__metadata__":{"k":{}}})"), "not a string"},
      {"metadata value null", file_of(R"({"__metadata__":{"k":null}})"), "not a string"},
      {"metadata an array", file_of(R"({"__metadata__":[]})"), "not an object of strings"},
  };
}

TEST(SafetensorsReader, RefusesEveryMalformedFileWithItsReason) {
  const std::vector<Malformed> files = malformed_files();
  EXPECT_GE(files.size(), 28u);
  for (const Malformed& file : files) {
    const std::string message = refusal(file.bytes);
    EXPECT_NE(message.find(file.reason), message.npos) << file.name << ": " << message;
    EXPECT_NE(message.find("file: "), message.npos) << file.name << ": " << message;
  }
}

struct Legal {
  const char* name;
  std::string bytes;
  // Name, dtype, shape and bytes of every tensor, as describe() prints them.
  std::string contents;
};

std::string describe(const Parsed& parsed) {
  std::string text;
  for (const auto& [name, tensor] : parsed.tensors) {
    const std::string data(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size());
    text += fmt::format("{}:{}{}={};", name, tensor.dtype, Json(tensor.shape).dump(), data);
  }
  for (const auto& [key, value] : parsed.metadata) text += fmt::format("{}->{};", key, value);
  return text;
}

std::vector<Legal> legal_files() {
  const std::string good = one("F32", "[1]", "[0,4]"), data = "abcd";
  const std::string byte0 = fields("U8", "[1]", "[0,1]"), byte1 = fields("U8", "[1]", "[1,2]");
  const std::string empty0 = fields("U8", "[0]", "[0,0]"), empty1 = fields("U8", "[0]", "[1,1]");
  return {
      {"one tensor", file_of(good, data), "a:F32[1]=abcd;"},
      {"rank 0", file_of(one("F32", "[]", "[0,4]"), data), "a:F32[]=abcd;"},
      {"zero-sized dimension", file_of(one("F32", "[3,0,5]", "[0,0]")), "a:F32[3,0,5]=;"},
      {"zero before dimensions that would overflow",
       file_of(one("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]")),
       "a:F32[0,4611686018427387904,4611686018427387904]=;"},
      {"no tensors", file_of("{}"), ""},
      {"no tensors but metadata", file_of(R"({"__metadata__":{"k":"v"}})"), "k->v;"},
      {"another order than the offsets",
       file_of(R"({"b":)" + byte1 + R"(,"a":)" + byte0 + "}", "xy"), "a:U8[1]=x;b:U8[1]=y;"},
      {"several empty tensors at one offset",
       file_of(R"({"a":)" + byte0 + R"(,"b":)" + empty1 + R"(,"c":)" + empty1 + R"(,"d":)" +
                   empty0 + R"(,"e":)" + byte1 + "}",
               "xy"),
       "a:U8[1]=x;b:U8[0]=;c:U8[0]=;d:U8[0]=;e:U8[1]=y;"},
      {"empty name", file_of(R"({"":)" + byte0 + "}", "x"), ":U8[1]=x;"},
      {"name like a path", file_of(R"({"../../etc/x":)" + byte0 + "}", "x"),
       "../../etc/x:U8[1]=x;"},
      {"name with a NUL", file_of(R"({"n\u0000m":)" + byte0 + "}", "x"), "n\0m:U8[1]=x;"s},
      {"name beyond the basic plane", file_of(R"({"\ud83d\ude00":)" + byte0 + "}", "x"),
       "😀:U8[1]=x;"},
      {"trailing spaces", file_of(good + "    ", data), "a:F32[1]=abcd;"},
      {"leading white space", file_of(" \t\r\n" + good, data), "a:F32[1]=abcd;"},
      {"metadata of strings", file_of(R"({"__metadata__":{"":"","k":"v"},"a":)" + byte0 + "}", "x"),
       "a:U8[1]=x;->;k->v;"},
      {"metadata null", file_of(R"({"__metadata__":null,"a":)" + byte0 + "}", "x"), "a:U8[1]=x;"},
      {"further fields",
       file_of(R"({"a":{"dtype":"U8","note":[1],"shape":[1],"data_offsets":[0,1]}})", "x"),
       "a:U8[1]=x;"},
      {"whole bytes of sub-byte elements", file_of(one("F6_E3M2", "[2,2]", "[0,3]"), "xyz"),
       "a:F6_E3M2[2,2]=xyz;"},
      {"rank 300",
       file_of(one(
                   "U8",
                   "[" +
                       [] {
                         std::string ones = "1";
                         for (int i = 1; i < 300; ++i) ones += ",1";
                         return ones;
                       }() +
                       "]",
                   "[0,1]"),
               "x"),
       "a:U8" + Json(std::vector<int64_t>(300, 1)).dump() + "=x;"},
  };
}

TEST(SafetensorsReader, AcceptsEveryLegalFileWithItsContents) {
  const std::vector<Legal> files = legal_files();
  EXPECT_GE(files.size(), 11u);
  for (const Legal& file : files) {
    Parsed parsed;
    EXPECT_NO_THROW(parse(file.bytes, parsed)) << file.name;
    EXPECT_EQ(describe(parsed), file.contents) << file.name;
  }
}

TEST(SafetensorsReader, HeaderOfExactlyTheLimitIsAccepted) {
  std::string header = one("F32", "[1]", "[0,4]");
  header.resize(100'000'000, ' ');
  EXPECT_EQ(refusal(file_of(header, "abcd")), "accepted");
}

TEST(SafetensorsReader, KnowsTheElementSizeOfEveryDtype) {
  const std::vector<std::pair<std::string, int>> sizes = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  for (const auto& [dtype, bits] : sizes) {
    EXPECT_EQ(safetensors_dtype_bits(dtype), bits) << dtype;
    const std::string data(static_cast<size_t>(bits), 'x');  // 8 elements
    EXPECT_EQ(refusal(file_of(one(dtype, "[8]", fmt::format("[0,{}]", bits)), data)), "accepted");
  }
  EXPECT_EQ(safetensors_dtype_bits("F80"), 0);
  EXPECT_EQ(safetensors_dtype_bits(""), 0);
}

TEST(SafetensorsReader, ViewsPointIntoTheFileAndSurviveAMove) {
  const TestFolder folder;
  write_safetensors(folder / "f", {{"a", "U8", {3}, std::as_bytes(std::span("xyz", 3))}});
  SafetensorsFile first = SafetensorsFile::open(folder / "f");
  const SafetensorsFile file = std::move(first);
  EXPECT_EQ(std::memcmp(file.at("a").data.data(), "xyz", 3), 0);
  expect_error(ErrorCode::damaged, {"\"absent\"", folder / "f"}, [&] { file.at("absent"); });
}

TEST(SafetensorsReader, AbsentFileIsAnIoErrorAndEmptyFileIsDamaged) {
  const TestFolder folder;
  write_file_atomic(folder / "empty", "");
  expect_error(ErrorCode::io, {}, [&] { SafetensorsFile::open(folder / "absent"); });
  expect_error(ErrorCode::damaged, {}, [&] { SafetensorsFile::open(folder / "empty"); });
}

TEST(SafetensorsWriter, ReaderReturnsWhatWasWritten) {
  const TestFolder folder;
  const std::vector<float> weights = {1.5f, -2.0f, 0.0f, 3e38f, 1e-45f, 7.0f};
  const std::vector<int64_t> ids = {INT64_MIN, INT64_MAX};
  write_safetensors(folder / "f",
                    {{"z.weight", "F32", {2, 3}, std::as_bytes(std::span(weights))},
                     {"a\n\"\\é😀", "I64", {2}, std::as_bytes(std::span(ids))},
                     {"empty", "BF16", {0, 7}, {}},
                     {"scalar", "F32", {}, std::as_bytes(std::span(weights).first(1))}},
                    {{"format", "pt"}, {"note", "\u00e9\""}});
  const SafetensorsFile file = SafetensorsFile::open(folder / "f");
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.at("z.weight").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(file.at("z.weight").data.data(), weights.data(), 24), 0);
  EXPECT_EQ(std::memcmp(file.at("a\n\"\\é😀").data.data(), ids.data(), 16), 0);
  EXPECT_EQ(file.at("empty").shape, (std::vector<int64_t>{0, 7}));
  EXPECT_TRUE(file.at("empty").data.empty());
  EXPECT_TRUE(file.at("scalar").shape.empty());
  EXPECT_EQ(file.metadata().at("note"), "\u00e9\"");
  EXPECT_EQ(file.metadata().size(), 2u);
}

TEST(SafetensorsWriter, DataBeginsAtAMultipleOfEightAndKeepsTheGivenOrder) {
  const TestFolder folder;
  for (int length = 1; length <= 9; ++length) {
    const std::string name(static_cast<size_t>(length), 'n');
    write_safetensors(folder / "f", {{name, "U8", {1}, std::as_bytes(std::span("1", 1))},
                                     {"a", "U8", {1}, std::as_bytes(std::span("2", 1))}});
    const std::string bytes = read_file(folder / "f");
    uint64_t header = 0;
    std::memcpy(&header, bytes.data(), 8);
    EXPECT_EQ(header % 8, 0u);
    EXPECT_EQ(bytes.substr(8 + header), "12");
  }
}

TEST(SafetensorsWriter, AFileWithoutTensorsIsLegal) {
  const TestFolder folder;
  write_safetensors(folder / "none", {});
  EXPECT_TRUE(SafetensorsFile::open(folder / "none").tensors().empty());
  write_safetensors(folder / "meta", {}, {{"k", "v"}});
  EXPECT_EQ(SafetensorsFile::open(folder / "meta").metadata().at("k"), "v");
}

TEST(SafetensorsWriter, RefusesEntriesThatDoNotFitTogether) {
  const TestFolder folder;
  const auto data = std::as_bytes(std::span("abcd", 4));
  const std::string path = folder / "f";
  EXPECT_THROW(write_safetensors(path, {{"a", "F32", {2}, data}}), std::logic_error);
  EXPECT_THROW(write_safetensors(path, {{"a", "F99", {1}, data}}), std::logic_error);
  EXPECT_THROW(write_safetensors(path, {{"__metadata__", "F32", {1}, data}}), std::logic_error);
  EXPECT_THROW(write_safetensors(path, {{"a", "F32", {1}, data}, {"a", "F32", {1}, data}}),
               std::logic_error);
  EXPECT_FALSE(path_exists(path));
}

TEST(SafetensorsWriter, AFullDiskIsAnIoErrorThatNamesTheFile) {
  expect_error(ErrorCode::io, {"/dev/full"}, [] {
    write_safetensors("/dev/full", {{"a", "U8", {4}, std::as_bytes(std::span("abcd", 4))}});
  });
}

}  // namespace
}  // namespace osp
