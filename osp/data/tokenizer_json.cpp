#include "osp/data/tokenizer_json.h"

namespace osp::tokenizer {
namespace {

constexpr int kMaxDepth = 64;

const SortedJson& member(const Component& component, const char* key) {
  const auto found = component.json.find(key);
  if (found == component.json.end()) {
    fail(ErrorCode::damaged, "{}: key \"{}\" is missing", component.where, key);
  }
  return *found;
}

[[noreturn]] void wrong_type(const Component& component, const char* key, const char* expected,
                             const SortedJson& found) {
  fail(ErrorCode::damaged, "{}: \"{}\" is {}, expected {}", component.where, key, found.type_name(),
       expected);
}

}  // namespace

SortedJson parse_tokenizer_json(std::string_view text, const std::string& where) {
  const auto check_depth = [&](int depth, SortedJson::parse_event_t, SortedJson&) {
    if (depth > kMaxDepth) {
      fail(ErrorCode::damaged, "{}: JSON nested deeper than {}; not a tokenizer.json", where,
           kMaxDepth);
    }
    return true;
  };
  try {
    SortedJson root = SortedJson::parse(text, check_depth);
    if (!root.is_object()) {
      fail(ErrorCode::damaged, "{}: JSON {}, expected an object with a \"model\"", where,
           root.type_name());
    }
    return root;
  } catch (const SortedJson::exception& e) {
    fail(ErrorCode::damaged, "{}: not valid JSON: {}", where, e.what());
  }
}

int32_t as_token_id(const SortedJson& value) {
  if (!value.is_number_integer()) return -1;
  const bool too_big = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(kLargestId);
  if (too_big || value.get<int64_t>() < 0 || value.get<int64_t>() > kLargestId) return -1;
  return value.get<int32_t>();
}

std::string Component::type() const {
  if (!json.is_object()) {
    fail(ErrorCode::damaged, "{}: {}, expected an object with a \"type\"", where, json.type_name());
  }
  return text("type");
}

bool Component::has(const char* key) const {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

bool Component::flag(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  const SortedJson& value = member(*this, key);
  if (!value.is_boolean()) wrong_type(*this, key, "true or false", value);
  return value.get<bool>();
}

std::string Component::text(const char* key) const {
  const SortedJson& value = member(*this, key);
  if (!value.is_string()) wrong_type(*this, key, "a string", value);
  return value.get<std::string>();
}

std::string Component::text(const char* key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

int64_t Component::integer(const char* key, int64_t low, int64_t high) const {
  const SortedJson& value = member(*this, key);
  if (!value.is_number_integer()) wrong_type(*this, key, "an integer", value);
  const bool too_big = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX);
  if (too_big || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    fail(ErrorCode::damaged, "{}: \"{}\" is {}, expected {} to {}", where, key, value.dump(), low,
         high);
  }
  return value.get<int64_t>();
}

std::vector<Component> Component::list(const char* key) const {
  const SortedJson& value = member(*this, key);
  if (!value.is_array()) wrong_type(*this, key, "an array", value);
  std::vector<Component> parts;
  for (size_t i = 0; i < value.size(); ++i) {
    parts.push_back({value[i], fmt::format("{}.{}[{}]", where, key, i)});
  }
  return parts;
}

Component Component::child(const char* key) const {
  return {member(*this, key), fmt::format("{}.{}", where, key)};
}

void Component::unsupported(std::string_view kind, std::string_view known) const {
  fail(ErrorCode::unsupported, "{}: {} of type \"{}\" is not supported (known: {})", where, kind,
       text("type"), known);
}

}  // namespace osp::tokenizer
