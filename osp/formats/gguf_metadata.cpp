// Typed access to the metadata of a GGUF file.
#include <cstring>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/formats/gguf.h"

namespace osp {
namespace {

template <class Element>
Element element(const GgufValue& value, uint64_t i) {
  Element result;
  std::memcpy(&result, value.bytes.data() + i * sizeof(Element), sizeof(Element));
  return result;
}

// Element `i` as an integer; nothing if the type is not one or the value is 2^63 or more.
std::optional<int64_t> as_integer(const GgufValue& value, uint64_t i) {
  switch (value.type) {
    case GgufType::u8:
      return element<uint8_t>(value, i);
    case GgufType::i8:
      return element<int8_t>(value, i);
    case GgufType::u16:
      return element<uint16_t>(value, i);
    case GgufType::i16:
      return element<int16_t>(value, i);
    case GgufType::u32:
      return element<uint32_t>(value, i);
    case GgufType::i32:
      return element<int32_t>(value, i);
    case GgufType::i64:
      return element<int64_t>(value, i);
    case GgufType::u64: {
      const auto number = element<uint64_t>(value, i);
      if (number > INT64_MAX) return {};
      return static_cast<int64_t>(number);
    }
    default:
      return {};
  }
}

std::optional<double> as_number(const GgufValue& value, uint64_t i) {
  if (value.type == GgufType::f32) return element<float>(value, i);
  if (value.type == GgufType::f64) return element<double>(value, i);
  if (const auto integer = as_integer(value, i)) return static_cast<double>(*integer);
  return {};
}

const char* type_name(const GgufValue& value) {
  switch (value.type) {
    case GgufType::f32:
    case GgufType::f64:
      return "floating-point number";
    case GgufType::boolean:
      return "truth value";
    case GgufType::string:
      return "string";
    default:
      return "integer";
  }
}

}  // namespace

void GgufMetadata::wrong_type(std::string_view key, const GgufValue& value,
                              const char* expected) const {
  fail(ErrorCode::damaged, "{}: metadata \"{}\" is {} {}, expected {}", where_, printable(key),
       value.is_array ? "an array with elements of type" : "of type", type_name(value), expected);
}

const GgufValue& GgufMetadata::at(std::string_view key, bool is_array, const char* expected) const {
  const auto found = values_.find(key);
  if (found == values_.end()) {
    fail(ErrorCode::damaged, "{}: metadata \"{}\" is missing, expected {}", where_, printable(key),
         expected);
  }
  if (found->second.is_array != is_array) wrong_type(key, found->second, expected);
  return found->second;
}

std::string_view GgufMetadata::text(std::string_view key) const {
  const GgufValue& value = at(key, false, "a string");
  if (value.type != GgufType::string) wrong_type(key, value, "a string");
  const auto length = element<uint64_t>(value, 0);
  return {reinterpret_cast<const char*>(value.bytes.data()) + sizeof(length), length};
}

int64_t GgufMetadata::integer(std::string_view key) const {
  constexpr const char* kExpected = "an integer below 2^63";
  const GgufValue& value = at(key, false, kExpected);
  const std::optional<int64_t> result = as_integer(value, 0);
  if (!result) wrong_type(key, value, kExpected);
  return *result;
}

double GgufMetadata::number(std::string_view key) const {
  const GgufValue& value = at(key, false, "a number");
  const std::optional<double> result = as_number(value, 0);
  if (!result) wrong_type(key, value, "a number");
  return *result;
}

bool GgufMetadata::flag(std::string_view key) const {
  const GgufValue& value = at(key, false, "a truth value");
  if (value.type != GgufType::boolean) wrong_type(key, value, "a truth value");
  return element<uint8_t>(value, 0) != 0;
}

std::vector<std::string_view> GgufMetadata::texts(std::string_view key) const {
  const GgufValue& value = at(key, true, "an array of strings");
  if (value.type != GgufType::string) wrong_type(key, value, "an array of strings");
  std::vector<std::string_view> result;
  result.reserve(value.count);
  const std::byte* at = value.bytes.data();
  for (uint64_t i = 0; i < value.count; ++i) {
    uint64_t length;
    std::memcpy(&length, at, sizeof(length));
    at += sizeof(length);
    result.emplace_back(reinterpret_cast<const char*>(at), length);
    at += length;
  }
  return result;
}

std::vector<int64_t> GgufMetadata::integers(std::string_view key) const {
  constexpr const char* kExpected = "an array of integers below 2^63";
  const GgufValue& value = at(key, true, kExpected);
  std::vector<int64_t> result;
  result.reserve(value.count);
  for (uint64_t i = 0; i < value.count; ++i) {
    const std::optional<int64_t> number = as_integer(value, i);
    if (!number) wrong_type(key, value, kExpected);
    result.push_back(*number);
  }
  return result;
}

std::vector<double> GgufMetadata::numbers(std::string_view key) const {
  const GgufValue& value = at(key, true, "an array of numbers");
  std::vector<double> result;
  result.reserve(value.count);
  for (uint64_t i = 0; i < value.count; ++i) {
    const std::optional<double> number = as_number(value, i);
    if (!number) wrong_type(key, value, "an array of numbers");
    result.push_back(*number);
  }
  return result;
}

}  // namespace osp
