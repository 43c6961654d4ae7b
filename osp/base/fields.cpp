// Configuration fields: assignment with checks, TOML and JSON in and out, hash, nearest key.
#include "osp/base/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/sha256.h"

namespace osp {
namespace {

constexpr int kMaxInheritance = 8;

const char* type_name(FieldRef::Type type) {
  switch (type) {
    case FieldRef::Type::boolean:
      return "true or false";
    case FieldRef::Type::integer:
      return "an integer";
    case FieldRef::Type::number:
      return "a number";
    case FieldRef::Type::text:
      return "a string";
  }
  return "";
}

[[noreturn]] void wrong_type(const FieldRef& field, const std::string& found,
                             const std::string& where) {
  fail(ErrorCode::usage, "{}: {} is {}, expected {} ({})", where, field.name, found,
       type_name(field.type), field.help);
}

void check_range(const FieldRef& field, double value, const std::string& shown,
                 const std::string& where) {
  if (std::isfinite(value) && value >= field.range.low && value <= field.range.high) return;
  fail(ErrorCode::usage, "{}: {} is {}, expected {} from {} to {} ({})", where, field.name, shown,
       type_name(field.type), field.range.low, field.range.high, field.help);
}

Json value_of(const FieldRef& field) {
  switch (field.type) {
    case FieldRef::Type::boolean:
      return *static_cast<const bool*>(field.storage);
    case FieldRef::Type::integer:
      return *static_cast<const int64_t*>(field.storage);
    case FieldRef::Type::number:
      return *static_cast<const double*>(field.storage);
    case FieldRef::Type::text:
      return *static_cast<const std::string*>(field.storage);
  }
  return nullptr;
}

// A TOML scalar as JSON; nothing for what no field can hold (arrays, dates).
std::optional<Json> to_json_value(const toml::node& node) {
  if (const auto* v = node.as_boolean()) return Json(v->get());
  if (const auto* v = node.as_integer()) return Json(v->get());
  if (const auto* v = node.as_floating_point()) return Json(v->get());
  if (const auto* v = node.as_string()) return Json(v->get());
  return std::nullopt;
}

void assign_toml(const toml::table& values, const std::string& prefix, const std::string& path,
                 const FieldTable& table) {
  for (const auto& [key, node] : values) {
    const std::string name =
        prefix.empty() ? std::string(key.str()) : prefix + "." + std::string(key.str());
    if (prefix.empty() && name == "inherit") continue;
    if (const toml::table* inner = node.as_table()) {
      assign_toml(*inner, name, path, table);
      continue;
    }
    const std::string where = fmt::format("{}:{}", path, node.source().begin.line);
    const FieldRef& field = table.find(name, where);
    const std::optional<Json> value = to_json_value(node);
    if (!value) wrong_type(field, node.is_array() ? "an array" : "a date or time", where);
    table.assign(name, *value, where);
  }
}

// `chain` holds the files that are being read, outermost first.
void load_toml_chain(const std::string& path, const FieldTable& table,
                     std::vector<std::string>& chain) {
  const std::string canonical = std::filesystem::weakly_canonical(path).string();
  if (std::find(chain.begin(), chain.end(), canonical) != chain.end()) {
    fail(ErrorCode::usage, "{}: inherits from itself by way of {}", path, chain.back());
  }
  if (chain.size() >= kMaxInheritance) {
    fail(ErrorCode::usage, "{}: recipes inherit more than {} deep", path, kMaxInheritance);
  }
  chain.push_back(canonical);
  toml::table values;
  try {
    values = toml::parse(read_file(path, 1 << 20), path);
  } catch (const toml::parse_error& e) {
    fail(ErrorCode::usage, "{}:{}: not TOML: {}", path, e.source().begin.line, e.description());
  }
  if (const toml::node* parent = values.get("inherit")) {
    const auto* name = parent->as_string();
    if (!name) {
      fail(ErrorCode::usage, "{}:{}: inherit must be a string, the path of another recipe", path,
           parent->source().begin.line);
    }
    load_toml_chain((std::filesystem::path(path).parent_path() / name->get()).string(), table,
                    chain);
  }
  assign_toml(values, "", path, table);
  chain.pop_back();
}

void assign_json(const Json& object, const std::string& prefix, const std::string& where,
                 const FieldTable& table) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = prefix.empty() ? key : prefix + "." + key;
    if (value.is_object()) {
      assign_json(value, name, where, table);
    } else {
      table.assign(name, value, where);
    }
  }
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> table(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        table[i][j] = i + j;
        continue;
      }
      const size_t replaced = table[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      table[i][j] = std::min({table[i - 1][j] + 1, table[i][j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        table[i][j] = std::min(table[i][j], table[i - 2][j - 2] + 1);
      }
    }
  }
  return table[a.size()][b.size()];
}

std::string key_of(const std::string& name) { return name.substr(name.rfind('.') + 1); }

}  // namespace

const FieldRef& FieldTable::find(const std::string& name, const std::string& where) const {
  std::vector<std::string> known;
  for (const FieldRef& field : fields_) {
    if (field.name == name) return field;
    known.push_back(field.name);
  }
  std::string suggestion = nearest(name, known);
  for (const std::string& candidate : known) {  // the right key under a wrong section
    if (suggestion.empty() && key_of(candidate) == key_of(name)) suggestion = candidate;
  }
  if (suggestion.empty()) {
    std::vector<std::string> keys;
    keys.reserve(known.size());
    for (const std::string& candidate : known) keys.push_back(key_of(candidate));
    const std::string key = nearest(key_of(name), keys);
    for (size_t i = 0; i < keys.size() && suggestion.empty(); ++i) {
      if (keys[i] == key) suggestion = known[i];
    }
  }
  fail(ErrorCode::usage, "{}: unknown key {}{}", where, name,
       suggestion.empty() ? std::string() : "; did you mean " + suggestion + "?");
}

void FieldTable::assign(const std::string& name, const Json& value,
                        const std::string& where) const {
  const FieldRef& field = find(name, where);
  const std::string shown = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  switch (field.type) {
    case FieldRef::Type::boolean:
      if (!value.is_boolean()) wrong_type(field, shown, where);
      *static_cast<bool*>(field.storage) = value.get<bool>();
      return;
    case FieldRef::Type::integer: {
      const bool too_large = value.is_number_unsigned() &&
                             value.get<uint64_t>() > uint64_t(std::numeric_limits<int64_t>::max());
      if (!value.is_number_integer() || too_large) wrong_type(field, shown, where);
      const int64_t number = value.get<int64_t>();
      check_range(field, double(number), shown, where);
      *static_cast<int64_t*>(field.storage) = number;
      return;
    }
    case FieldRef::Type::number:
      if (!value.is_number()) wrong_type(field, shown, where);
      check_range(field, value.get<double>(), fmt::format("{}", value.get<double>()), where);
      *static_cast<double*>(field.storage) = value.get<double>();
      return;
    case FieldRef::Type::text: {
      if (!value.is_string()) wrong_type(field, shown, where);
      const std::string text = value.get<std::string>();
      const auto& choices = field.choices;
      if (!choices.empty() && std::find(choices.begin(), choices.end(), text) == choices.end()) {
        const std::string close = nearest(text, choices);
        fail(ErrorCode::usage, "{}: {} is {}, expected one of {}{}", where, field.name, shown,
             fmt::join(choices, ", "), close.empty() ? "" : "; did you mean " + close + "?");
      }
      *static_cast<std::string*>(field.storage) = text;
      return;
    }
  }
}

void FieldTable::assign_text(std::string_view assignment) const {
  const std::string where = fmt::format("--set {}", assignment);
  const size_t equals = assignment.find('=');
  if (equals == std::string_view::npos) {
    fail(ErrorCode::usage, "{}: expected section.key=value", where);
  }
  const std::string name(assignment.substr(0, equals));
  const std::string text(assignment.substr(equals + 1));
  const FieldRef& field = find(name, where);
  const bool quoted = !text.empty() && (text.front() == '"' || text.front() == '\'');
  if (field.type == FieldRef::Type::text && !quoted) {
    assign(name, text, where);
    return;
  }
  std::optional<Json> value;
  try {
    const toml::table parsed = toml::parse("value = " + text);
    if (parsed.size() == 1) value = to_json_value(*parsed.get("value"));
  } catch (const toml::parse_error&) {
    value = std::nullopt;
  }
  if (!value) wrong_type(field, text.empty() ? "empty" : text, where);
  assign(name, *value, where);
}

Json FieldTable::to_json() const {
  Json object = Json::object();
  for (const FieldRef& field : fields_) {
    const size_t dot = field.name.rfind('.');
    if (dot == std::string::npos) {
      object[field.name] = value_of(field);
    } else {
      object[field.name.substr(0, dot)][field.name.substr(dot + 1)] = value_of(field);
    }
  }
  return object;
}

void FieldTable::from_json(const Json& object, const std::string& where) const {
  if (!object.is_object()) {
    fail(ErrorCode::usage, "{}: expected an object of sections, found {}", where,
         object.type_name());
  }
  assign_json(object, "", where, *this);
}

void load_toml(const std::string& path, const FieldTable& table) {
  std::vector<std::string> chain;
  load_toml_chain(path, table, chain);
}

std::string config_hash(const FieldTable& table, const std::vector<std::string>& except) {
  std::map<std::string, Json> values;  // sorted: the order of declaration does not matter
  for (const FieldRef& field : table.fields()) {
    const bool skipped = std::any_of(except.begin(), except.end(), [&](const std::string& prefix) {
      return field.name.starts_with(prefix);
    });
    if (!skipped) values[field.name] = value_of(field);
  }
  return sha256_hex(Json(values).dump());
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = word.size() / 3 + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

}  // namespace osp
