#include "osp/tokenizer/json.h"

#include <utility>

#include "osp/base/json.h"

namespace osp::tokenizer {
namespace {

// A copy with sorted objects; takes the strings out of `value`.
SortedJson sorted(Json&& value) {
  if (value.is_object()) {
    SortedJson object = SortedJson::object();
    for (auto& [key, member] : value.get_ref<Json::object_t&>()) {
      object.emplace(key, sorted(std::move(member)));
    }
    return object;
  }
  if (value.is_array()) {
    SortedJson array = SortedJson::array();
    for (Json& element : value) array.push_back(sorted(std::move(element)));
    return array;
  }
  if (value.is_string()) return std::move(value.get_ref<std::string&>());
  return value;
}

const SortedJson& member(const Component& component, const std::string& key) {
  const auto found = component.json.find(key);
  if (found == component.json.end()) {
    fail(ErrorCode::damaged, "{}: key \"{}\" is missing", component.where, printable(key));
  }
  return *found;
}

[[noreturn]] void wrong_type(const Component& component, const std::string& key,
                             const char* expected, const SortedJson& found) {
  fail(ErrorCode::damaged, "{}: \"{}\" is {}, expected {}", component.where, printable(key),
       found.type_name(), expected);
}

}  // namespace

SortedJson parse_tokenizer_json(std::string_view text, const std::string& where) {
  SortedJson root = sorted(parse_json(text, where));
  if (!root.is_object()) {
    fail(ErrorCode::damaged, "{}: JSON {}, expected an object with a \"model\"", where,
         root.type_name());
  }
  return root;
}

int32_t as_token_id(const SortedJson& value) {
  if (!value.is_number_integer()) return -1;
  const bool too_big = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(kLargestId);
  if (too_big || value.get<int64_t>() < 0 || value.get<int64_t>() > kLargestId) return -1;
  return value.get<int32_t>();
}

std::string shown(const SortedJson& value) {
  return value.is_structured() ? value.type_name() : printable(value.dump());
}

std::string Component::type() const {
  if (!json.is_object()) {
    fail(ErrorCode::damaged, "{}: {}, expected an object with a \"type\"", where, json.type_name());
  }
  return text("type");
}

bool Component::has(const std::string& key) const {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

bool Component::flag(const std::string& key, bool fallback) const {
  if (!has(key)) return fallback;
  const SortedJson& value = member(*this, key);
  if (!value.is_boolean()) wrong_type(*this, key, "true or false", value);
  return value.get<bool>();
}

std::string Component::text(const std::string& key) const {
  const SortedJson& value = member(*this, key);
  if (!value.is_string()) wrong_type(*this, key, "a string", value);
  return value.get<std::string>();
}

std::string Component::text(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : fallback;
}

int64_t Component::integer(const std::string& key, int64_t low, int64_t high) const {
  const SortedJson& value = member(*this, key);
  if (!value.is_number_integer()) wrong_type(*this, key, "an integer", value);
  const bool too_big = value.is_number_unsigned() && value.get<uint64_t>() > uint64_t(INT64_MAX);
  if (too_big || value.get<int64_t>() < low || value.get<int64_t>() > high) {
    fail(ErrorCode::damaged, "{}: \"{}\" is {}, expected {} to {}", where, key, shown(value), low,
         high);
  }
  return value.get<int64_t>();
}

std::vector<Component> Component::list(const std::string& key) const {
  const SortedJson& value = member(*this, key);
  if (!value.is_array()) wrong_type(*this, key, "an array", value);
  std::vector<Component> parts;
  for (size_t i = 0; i < value.size(); ++i) {
    parts.push_back({value[i], fmt::format("{}.{}[{}]", where, key, i)});
  }
  return parts;
}

Component Component::child(const std::string& key) const {
  return {member(*this, key), fmt::format("{}.{}", where, printable(key))};
}

void Component::unsupported(std::string_view kind, std::string_view known) const {
  fail(ErrorCode::unsupported, "{}: {} of type \"{}\" is not supported (known: {})", where, kind,
       printable(text("type")), known);
}

}  // namespace osp::tokenizer
