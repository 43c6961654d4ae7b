// The reader's rules as tables of whole files (docs/formats.md, "GGUF"), each refusal with the
// reason that the message must give. The kinds of cases are those of llama.cpp's tests.
#include "osp/formats/gguf.h"

#include <gtest/gtest.h>

#include <span>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/test_folder.h"
#include "osp/formats/gguf_test_files.h"

namespace osp {
namespace {

using namespace gguf_test;
using std::string_literals::operator""s;

std::span<const std::byte> bytes_of(const std::string& bytes) {
  return std::as_bytes(std::span(bytes));
}

// Code and message of the refusal, or "accepted".
struct GgufRefusal {
  ErrorCode code = ErrorCode::usage;
  std::string message = "accepted";
};
GgufRefusal gguf_refusal(const std::string& bytes) {
  try {
    parse_gguf(bytes_of(bytes), "model.gguf");
    return {};
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
}

constexpr uint32_t kF32 = 0, kQ8 = 8, kU32 = 4, kString = 8, kArray = 9, kBool = 7;

struct MalformedGguf {
  const char* name;
  std::string bytes;
  std::vector<std::string> reasons;  // parts of the message
  ErrorCode code = ErrorCode::damaged;
};

void expect_refused(const std::vector<MalformedGguf>& files) {
  for (const MalformedGguf& malformed : files) {
    const GgufRefusal found = gguf_refusal(malformed.bytes);
    EXPECT_EQ(found.code, malformed.code) << malformed.name << ": " << found.message;
    EXPECT_TRUE(found.message.starts_with("model.gguf: ")) << found.message;
    for (const std::string& reason : malformed.reasons) {
      EXPECT_NE(found.message.find(reason), std::string::npos)
          << malformed.name << ": expected \"" << reason << "\" in: " << found.message;
    }
  }
}

TEST(Gguf, MalformedHeadersAreRefused) {
  const auto unsupported = ErrorCode::unsupported;
  expect_refused({
      {"empty file", "", {"magic number", "only 0 are left"}},
      {"other magic", "GGML" + header(3, 0, 0).substr(4), {"\"GGML\"", "expected \"GGUF\""}},
      {"no version", "GGUF", {"the version", "truncated"}},
      {"version 0", header(0, 0, 0), {"version is 0", "expected 2 or 3"}},
      {"version 1", header(1, 0, 0), {"version is 1", "2 and 3"}, unsupported},
      {"version 4", header(4, 0, 0), {"version is 4", "2 and 3"}, unsupported},
      {"big-endian", header(0x03000000u, 0, 0), {"big-endian"}, unsupported},
      {"no counts", header(3, 0, 0).substr(0, 12), {"number of tensors", "truncated"}},
      {"2^64-1 tensors", header(3, ~0ull, 0), {"number of tensors", "18446744073709551615"}},
      {"2^64-1 entries", header(3, 0, ~0ull), {"number of metadata entries", "cannot fit"}},
      {"2^60 entries", header(3, 0, 1ull << 60) + std::string(100, 'x'), {"100 bytes"}},
      {"one tensor too many", header(3, 1, 0), {"number of tensors is 1"}},
      {"one entry too many", header(3, 0, 2) + u32_entry("a", 1), {"entries is 2"}},
  });
}

TEST(Gguf, MalformedMetadataIsRefused) {
  const auto one = [](const std::string& part) { return file({part}, {}, ""); };
  const auto padded = [&](const std::string& part) { return one(part + std::string(64, '\0')); };
  expect_refused({
      {"key of 2^64-1 bytes", one(u64(~0ull) + std::string(40, 'k')), {"entry 0", "at most 65535"}},
      {"key beyond the end", one(u64(1000) + std::string(40, 'k')), {"takes 1000 bytes"}},
      {"empty key", padded(entry("", kU32, u32(1))), {"entry 0 is empty"}},
      {"key not UTF-8", padded(entry("a\xFF", kU32, u32(1))), {"not UTF-8", "a\\xff"}},
      {"key of a surrogate", padded(entry("\xED\xA0\x80", kU32, u32(1))), {"not UTF-8"}},
      {"overlong key", padded(entry("\xC0\x80", kU32, u32(1))), {"not UTF-8"}},
      {"key above U+10FFFF", padded(entry("\xF4\x90\x80\x80", kU32, u32(1))), {"not UTF-8"}},
      {"type 13", padded(entry("k", 13, u64(0))), {"\"k\"", "unknown type 13"}},
      {"type 2^32-1", padded(entry("k", ~0u, u64(0))), {"unknown type 4294967295"}},
      {"no value", one(entry("long key", kU32, "")), {"\"long key\"", "only 0 bytes are left"}},
      {"half a value", one(entry("long key", kU32, "ab")), {"\"long key\""}},
      {"string of 2^64-1 bytes", padded(entry("k", kString, u64(~0ull))), {"\"k\" takes 18446"}},
      {"string beyond the end", one(entry("key", kString, u64(9) + "12345678")), {"takes 9 bytes"}},
      {"string not UTF-8", one(string_entry("key", "abc\xC3")), {"\"key\" is not UTF-8"}},
      {"truth value 2", padded(entry("k", kBool, "\2")), {"\"k\" holds 2", "0 or 1"}},
      {"duplicate key",
       file({u32_entry("k", 1), u32_entry("k", 2)}, {}, ""),
       {"\"k\" is there twice"}},
      {"same key, other type", file({u32_entry("k", 1), string_entry("k", "")}, {}, ""), {"twice"}},
  });
}

TEST(Gguf, MalformedArraysAreRefused) {
  const auto one = [](const std::string& part) { return file({part}, {}, ""); };
  expect_refused({
      {"2^64-1 elements", one(array_entry("k", kU32, ~0ull, "abcd")), {"\"k\"", "elements of u32"}},
      {"2^62 elements of 4 bytes", one(array_entry("k", kU32, 1ull << 62, "abcd")), {"4611686"}},
      {"2^61 strings", one(array_entry("k", kString, 1ull << 61, u64(0))), {"elements of string"}},
      {"one element too many", one(array_entry("k", kU32, 2, u32(1))), {"2 elements", "4 bytes"}},
      {"one string too many", one(array_entry("k", kString, 2, text("12345678"))), {"truncated"}},
      {"elements of type 13", one(array_entry("k", 13, 0, "")), {"elements of", "unknown type 13"}},
      {"a truth value 255", one(array_entry("k", kBool, 3, "\0\1\xFF"s)), {"holds 255"}},
      {"a string not UTF-8", one(array_entry("k", kString, 1, text("\x80"))), {"not UTF-8"}},
      {"array of arrays",
       one(array_entry("k", kArray, 1, u32(kU32) + u64(1) + u32(1))),
       {"\"k\" is an array of arrays"},
       ErrorCode::unsupported},
  });
}

TEST(Gguf, WrongAlignmentIsRefused) {
  const auto with = [](const std::string& part) {
    return file({part}, {tensor("t", {8}, kF32, 0)}, std::string(64, 'd'));
  };
  const std::string key = "general.alignment";
  expect_refused({
      {"0", with(u32_entry(key, 0)), {"general.alignment", "is 0", "power of two"}},
      {"13", with(u32_entry(key, 13)), {"is 13", "power of two"}},
      {"of type i32", with(entry(key, 5, u32(32))), {"is i32, expected u32"}},
      {"a string", with(string_entry(key, "32")), {"is string, expected u32"}},
      {"an array", with(array_entry(key, kU32, 1, u32(32))), {"an array of u32"}},
      {"beyond the end", with(u32_entry(key, 1u << 31)), {"\"t\"", "there are 0"}},
  });
}

TEST(Gguf, MalformedTensorsAreRefused) {
  const std::string data(128, 'd');
  const auto one = [&](const std::string& description) { return file({}, {description}, data); };
  const auto pair = [&](const std::string& a, const std::string& b) {
    return file({}, {a, b}, data);
  };
  const uint64_t half = 1ull << 32;
  const auto unsupported = ErrorCode::unsupported;
  expect_refused({
      {"name of 65 bytes",
       one(tensor(std::string(65, 'n'), {8}, kF32, 0)),
       {"tensor 0", "most 64"}},
      {"name of 2^64-1 bytes", one(u64(~0ull) + data), {"tensor 0", "at most 64"}},
      {"name not UTF-8", one(tensor("\xFF", {8}, kF32, 0)), {"name of tensor 0 is not UTF-8"}},
      {"5 dimensions", one(tensor("t", {1, 1, 1, 1, 8}, kF32, 0)), {"\"t\" has 5 dimensions"}},
      {"2^32-1 dimensions", one(text("t") + u32(~0u) + data), {"4294967295 dimensions"}},
      {"dimension -1", one(tensor("t", {~0ull}, kF32, 0)), {"dimension 18446744073709551615"}},
      {"dimension 2^63", one(tensor("t", {1ull << 63}, kF32, 0)), {"less than 2^63"}},
      {"[2^32, 2^32]", one(tensor("t", {half, half}, kF32, 0)), {"too many values"}},
      {"[0, 2^32, 2^32]", one(tensor("t", {half, half, 0}, kF32, 0)), {"too many values"}},
      {"2^62 values of 4 bytes", one(tensor("t", {1ull << 62}, kF32, 0)), {"too many bytes"}},
      {"type 4, once used", one(tensor("t", {8}, 4, 0)), {"unknown type 4; osp reads F32, F16"}},
      {"type 1000", one(tensor("t", {8}, 1000, 0)), {"unknown type 1000"}},
      {"type IQ2_XXS",
       one(tensor("t", {256}, 16, 0)),
       {"type IQ2_XXS (16); osp reads"},
       unsupported},
      {"half a block", one(tensor("t", {16, 2}, kQ8, 0)), {"rows of 16", "blocks of 32 (Q8_0)"}},
      {"half a K block", one(tensor("t", {128, 2}, 12, 0)), {"blocks of 256 (Q4_K)"}},
      {"no dimensions of blocks", one(tensor("t", {}, kQ8, 0)), {"rows of 1 values"}},
      {"offset 4", one(tensor("t", {8}, kF32, 4)), {"byte 4", "multiple of 32"}},
      {"offset 2^64-32", one(tensor("t", {8}, kF32, ~0ull - 31)), {"truncated"}},
      {"a byte missing",
       file({}, {tensor("t", {8}, kF32, 0)}, data.substr(0, 31)),
       {"32 bytes", "31"}},
      {"no data", header(3, 1, 0) + tensor("t", {8}, kF32, 0), {"\"t\" takes 32 bytes"}},
      {"cut description",
       header(3, 1, 0) + tensor("t", {8}, kF32, 0).substr(0, 24),
       {"the type of tensor"}},
      {"duplicate name",
       pair(tensor("t", {8}, kF32, 0), tensor("t", {8}, kF32, 32)),
       {"\"t\" is there twice"}},
      {"overlap",
       pair(tensor("a", {16}, kF32, 0), tensor("b", {8}, kF32, 32)),
       {"\"b\"", "inside"}},
      {"same place",
       pair(tensor("a", {8}, kF32, 0), tensor("b", {8}, kF32, 0)),
       {"inside the tensor"}},
      {"hole", pair(tensor("a", {8}, kF32, 0), tensor("b", {8}, kF32, 64)), {"hole from byte 32"}},
      {"hole at the start", one(tensor("a", {8}, kF32, 32)), {"hole from byte 0"}},
  });
}

TEST(Gguf, TwoHugeTensorsDoNotOverflowTogether) {
  const uint64_t huge = 0x7FFFFFFFFFFFFFC0ull / 4;
  const GgufRefusal found =
      gguf_refusal(file({}, {tensor("a", {huge}, kF32, 0), tensor("b", {huge}, kF32, 0)}, ""));
  EXPECT_NE(found.message.find("truncated file?"), std::string::npos) << found.message;
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string whole =
      file({u32_entry("a", 1), array_entry("words", kString, 2, text("x") + text("yz"))},
           {tensor("t", {8}, kF32, 0), tensor("u", {32, 2}, kQ8, 32)}, std::string(32 + 68, 'd'));
  ASSERT_EQ(gguf_refusal(whole).message, "accepted");
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_EQ(gguf_refusal(whole.substr(0, length)).code, ErrorCode::damaged) << length;
  }
}

TEST(Gguf, WellFormedFilesAreAccepted) {
  const std::string data(64, 'd');
  const std::vector<std::pair<const char*, std::string>> files = {
      {"nothing at all", header(3, 0, 0)},
      {"version 2", header(2, 0, 1) + u32_entry("a", 1)},
      {"a scalar", file({}, {tensor("t", {}, kF32, 0)}, data)},
      {"a zero dimension", file({}, {tensor("t", {8, 0}, kF32, 0)}, data)},
      {"two empty tensors", file({}, {tensor("a", {0}, kF32, 0), tensor("b", {0}, kF32, 0)}, "")},
      {"other order than the data's",
       file({}, {tensor("a", {8}, kF32, 32), tensor("b", {8}, kF32, 0)}, data)},
      {"alignment 1", file({u32_entry("general.alignment", 1)},
                           {tensor("a", {1}, kF32, 0), tensor("b", {1}, kF32, 4)}, data, 1)},
      {"names that look like paths", file({}, {tensor("../../etc/x", {8}, kF32, 0)}, data)},
      {"an empty name", file({}, {tensor("", {8}, kF32, 0)}, data)},
      {"bytes after the last tensor", file({}, {tensor("a", {8}, kF32, 0)}, data)},
      {"empty arrays",
       file({array_entry("a", kU32, 0, ""), array_entry("b", kString, 0, "")}, {}, "")},
  };
  for (const auto& [name, bytes] : files)
    EXPECT_EQ(gguf_refusal(bytes).message, "accepted") << name;
}

TEST(Gguf, ValuesOfEveryTypeComeBack) {
  const std::string bytes = file(
      {entry("u8", 0, raw<uint8_t>(200)), entry("i8", 1, raw<int8_t>(-100)),
       entry("u16", 2, raw<uint16_t>(60000)), entry("i16", 3, raw<int16_t>(-30000)),
       entry("u32", 4, u32(4'000'000'000)), entry("i32", 5, raw<int32_t>(-2'000'000'000)),
       entry("f32", 6, raw(0.5f)), entry("yes", 7, "\1"), entry("no", 7, "\0"s),
       string_entry("text", "größe"), entry("u64", 10, u64(1ull << 62)),
       entry("big", 10, u64(1ull << 63)), entry("i64", 11, raw<int64_t>(-1)),
       entry("f64", 12, raw(1e300)), array_entry("words", 8, 3, text("a") + text("") + text("bc")),
       array_entry("i16s", 3, 2, raw<int16_t>(-5) + raw<int16_t>(6)),
       array_entry("f32s", 6, 2, raw(1.5f) + raw(-2.0f))},
      {}, "");
  const GgufContents contents = parse_gguf(bytes_of(bytes), "model.gguf");
  const GgufMetadata& metadata = contents.metadata;
  const auto expect_integer = [&](const char* key, int64_t value) {
    EXPECT_EQ(metadata.integer(key), value) << key;
    EXPECT_EQ(metadata.number(key), static_cast<double>(value)) << key;
  };
  expect_integer("u8", 200);
  expect_integer("i8", -100);
  expect_integer("u16", 60000);
  expect_integer("i16", -30000);
  expect_integer("u32", 4'000'000'000);
  expect_integer("i32", -2'000'000'000);
  expect_integer("u64", int64_t{1} << 62);
  expect_integer("i64", -1);
  EXPECT_EQ(metadata.number("f32"), 0.5);
  EXPECT_EQ(metadata.number("f64"), 1e300);
  EXPECT_TRUE(metadata.flag("yes"));
  EXPECT_FALSE(metadata.flag("no"));
  EXPECT_EQ(metadata.text("text"), "größe");
  EXPECT_EQ(metadata.texts("words"), (std::vector<std::string_view>{"a", "", "bc"}));
  EXPECT_EQ(metadata.integers("i16s"), (std::vector<int64_t>{-5, 6}));
  EXPECT_EQ(metadata.numbers("f32s"), (std::vector<double>{1.5, -2.0}));
  EXPECT_EQ(metadata.numbers("i16s"), (std::vector<double>{-5, 6}));
}

TEST(Gguf, WrongTypesOfMetadataNameTheKey) {
  const std::string bytes =
      file({u32_entry("count", 1), string_entry("name", "x"), array_entry("words", 8, 1, text("a")),
            entry("big", 10, u64(~0ull))},
           {}, "");
  const GgufMetadata metadata = parse_gguf(bytes_of(bytes), "model.gguf").metadata;
  const auto message = [](auto&& read) -> std::string {
    try {
      read();
      return "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::damaged);
      return error.what();
    }
  };
  const std::string head = "model.gguf: metadata ";
  EXPECT_EQ(message([&] { metadata.integer("x\n"); }),
            head + "\"x\\x0a\" is missing, expected an integer below 2^63");
  EXPECT_EQ(message([&] { metadata.integer("name"); }),
            head + "\"name\" is of type string, expected an integer below 2^63");
  EXPECT_EQ(message([&] { metadata.integer("big"); }),
            head + "\"big\" is of type integer, expected an integer below 2^63");
  EXPECT_EQ(message([&] { metadata.text("count"); }),
            head + "\"count\" is of type integer, expected a string");
  EXPECT_EQ(message([&] { metadata.text("words"); }),
            head + "\"words\" is an array with elements of type string, expected a string");
  EXPECT_EQ(message([&] { metadata.integers("words"); }),
            head +
                "\"words\" is an array with elements of type string, expected an array of "
                "integers below 2^63");
  EXPECT_EQ(message([&] { metadata.flag("count"); }),
            head + "\"count\" is of type integer, expected a truth value");
}

TEST(Gguf, TensorsHaveShapesSlowestFirstAndTheirBytes) {
  std::string data(32, 'a');
  data += std::string(3 * 2 * 34, 'b');
  const std::string bytes =
      file({}, {tensor("norm", {8}, kF32, 0), tensor("blocks", {64, 3}, kQ8, 32)}, data);
  const TestFolder folder;
  write_file_atomic(folder / "m.gguf", bytes);
  const GgufFile read = GgufFile::open(folder / "m.gguf");
  const GgufTensor& blocks = read.tensors().at("blocks");
  EXPECT_EQ(blocks.shape, (std::vector<int64_t>{3, 64}));
  EXPECT_EQ(blocks.type, GgufTensorType::q8_0);
  EXPECT_EQ(blocks.data.size(), 3u * 2 * 34);
  EXPECT_EQ(static_cast<char>(blocks.data.front()), 'b');
  EXPECT_EQ(static_cast<char>(read.tensors().at("norm").data.back()), 'a');
}

}  // namespace
}  // namespace osp
