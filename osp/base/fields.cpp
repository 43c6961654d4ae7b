// Fields: assignment with checks, TOML and JSON in and out, hash, nearest name.
#include "osp/base/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <stdexcept>

// toml++ asserts where a table's name begins with a character that none may have ("[^"). A file
// must not end the program, so its assertions are exceptions here.
namespace osp {
struct TomlAssertion : std::logic_error {
  TomlAssertion() : std::logic_error("toml++") {}
};
[[noreturn]] inline void toml_assertion() { throw TomlAssertion(); }
}  // namespace osp
#define TOML_ASSERT(expression) ((expression) ? static_cast<void>(0) : ::osp::toml_assertion())
#include <toml++/toml.h>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
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
    case FieldRef::Type::list:
      return "a list of strings";
  }
  return "";
}

[[noreturn]] void wrong_type(const FieldRef& field, const std::string& found,
                             const std::string& where) {
  fail(ErrorCode::usage, "{}: {} is {}, expected {} ({})", where, field.name, found,
       type_name(field.type()), field.help);
}

void check_range(const FieldRef& field, double value, const std::string& shown,
                 const std::string& where) {
  const Range& range = field.range;
  const bool limited = std::isfinite(range.low) || std::isfinite(range.high);
  if (!limited || (std::isfinite(value) && value >= range.low && value <= range.high)) return;
  fail(ErrorCode::usage, "{}: {} is {}, expected {} from {} to {} ({})", where, field.name, shown,
       type_name(field.type()), range.low, range.high, field.help);
}

void check_choice(const FieldRef& field, const std::string& text, const std::string& shown,
                  const std::string& where) {
  const auto& choices = field.choices;
  if (choices.empty() || std::find(choices.begin(), choices.end(), text) != choices.end()) return;
  const std::string close = nearest_name(text, choices);
  fail(ErrorCode::usage, "{}: {} is {}, expected one of {}{}", where, field.name, shown,
       fmt::join(choices, ", "), close.empty() ? "" : "; did you mean " + close + "?");
}

bool is_list_of_strings(const Json& value) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); });
}

// The value as JSON type `Number` after the checks of an integer field.
template <class Number>
Number checked_integer(const FieldRef& field, const Json& value, const std::string& shown,
                       const std::string& where) {
  constexpr auto kLargest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  const bool too_large = value.is_number_unsigned() && value.get<uint64_t>() > kLargest &&
                         std::is_same_v<Number, int64_t>;
  if (!value.is_number_integer() || too_large) wrong_type(field, shown, where);
  check_range(field, value.get<double>(), shown, where);
  const bool negative = !value.is_number_unsigned() && value.get<int64_t>() < 0;
  if (negative && std::is_same_v<Number, uint64_t>) wrong_type(field, shown, where);
  return value.get<Number>();
}

// A TOML scalar as JSON, or a list of tables of scalars (table_list.h); nothing for what no field
// can hold (other arrays, dates).
std::optional<Json> to_json_value(const toml::node& node) {
  if (const toml::array* array = node.as_array()) {
    Json tables = Json::array();
    for (const toml::node& element : *array) {
      const toml::table* table = element.as_table();
      if (table == nullptr) return std::nullopt;
      Json object = Json::object();
      for (const auto& [key, inner] : *table) {
        const std::optional<Json> value = inner.is_array() ? std::nullopt : to_json_value(inner);
        if (!value) return std::nullopt;
        object[std::string(key.str())] = *value;
      }
      tables.push_back(std::move(object));
    }
    return tables;
  }
  if (const auto* v = node.as_boolean()) return Json(v->get());
  if (const auto* v = node.as_integer()) return Json(v->get());
  if (const auto* v = node.as_floating_point()) return Json(v->get());
  if (const auto* v = node.as_string()) return Json(v->get());
  return std::nullopt;
}

// The elements of a list of tables one more at a time, so that an error names the line of the
// element that is wrong.
void assign_list(const FieldRef& field, const toml::array& tables, const Json& value,
                 const std::string& path) {
  Json first = Json::array();
  for (size_t i = 0; i < tables.size(); ++i) {
    first.push_back(value[i]);
    field.assign(first, fmt::format("{}:{}", path, tables[i].source().begin.line));
  }
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
    if (node.is_array() && !node.as_array()->empty()) {
      assign_list(field, *node.as_array(), *value, path);
    } else {
      field.assign(*value, where);
    }
  }
}

// Control characters are no TOML; toml++ lets some of them pass.
void refuse_control_characters(const std::string& text, const std::string& path) {
  int64_t line = 1;
  for (const char c : text) {
    line += c == '\n';
    const auto byte = static_cast<unsigned char>(c);
    if ((byte >= 0x20 && byte != 0x7F) || c == '\t' || c == '\n' || c == '\r') continue;
    fail(ErrorCode::usage, "{}:{}: not TOML: has the control character 0x{:02X}", path, line, byte);
  }
}

// Outside of strings and comments TOML is ASCII. toml++ 3.3 runs into undefined behaviour on some
// other characters there (U+FEFE), so they are refused before it sees them.
void refuse_characters_outside_strings(const std::string& text, const std::string& path) {
  char quote = 0;  // of the string that is open
  bool triple = false, comment = false;
  for (size_t i = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; i < text.size(); ++i) {
    const char c = text[i];
    const auto is_triple = [&] { return text.compare(i, 3, std::string(3, c)) == 0; };
    if (comment) {
      comment = c != '\n';
    } else if (quote != 0) {
      if (quote == '"' && c == '\\') {
        ++i;
      } else if (c == quote && (!triple || is_triple())) {
        i += triple ? 2 : 0;
        quote = 0;
      } else if (c == '\n' && !triple) {
        quote = 0;
      }
    } else if (c == '#') {
      comment = true;
    } else if (c == '"' || c == '\'') {
      quote = c;
      triple = is_triple();
      i += triple ? 2 : 0;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      fail(ErrorCode::usage, "{}:{}: not TOML: a character outside of strings that is not ASCII",
           path, 1 + std::count(text.begin(), text.begin() + static_cast<int64_t>(i), '\n'));
    }
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
  const std::string text = read_file(path, 1 << 20);
  refuse_control_characters(text, path);
  refuse_characters_outside_strings(text, path);
  toml::table values;
  try {
    values = toml::parse(text, path);
  } catch (const toml::parse_error& e) {
    fail(ErrorCode::usage, "{}:{}: not TOML: {}", path, e.source().begin.line, e.description());
  } catch (const TomlAssertion&) {
    fail(ErrorCode::usage, "{}: not TOML: a key or a table's name begins with no letter or digit",
         path);
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

FieldRef::Type FieldRef::type() const {
  if (std::holds_alternative<bool*>(storage)) return Type::boolean;
  if (std::holds_alternative<int64_t*>(storage)) return Type::integer;
  if (std::holds_alternative<uint64_t*>(storage)) return Type::integer;
  if (std::holds_alternative<double*>(storage)) return Type::number;
  if (std::holds_alternative<std::vector<std::string>*>(storage)) return Type::list;
  return Type::text;
}

Json FieldRef::value() const {
  return std::visit(
      [](const auto& held) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, ParsedText>) {
          const std::string text = held.text();
          return text.starts_with('[') ? Json::parse(text) : Json(text);  // a list of tables
        } else {
          return *held;
        }
      },
      storage);
}

void FieldRef::assign(const Json& value, const std::string& where) const {
  const std::string shown = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (const auto* flag = std::get_if<bool*>(&storage)) {
    if (!value.is_boolean()) wrong_type(*this, shown, where);
    **flag = value.get<bool>();
  } else if (const auto* integer = std::get_if<int64_t*>(&storage)) {
    **integer = checked_integer<int64_t>(*this, value, shown, where);
  } else if (const auto* natural = std::get_if<uint64_t*>(&storage)) {
    **natural = checked_integer<uint64_t>(*this, value, shown, where);
  } else if (const auto* number = std::get_if<double*>(&storage)) {
    if (!value.is_number()) wrong_type(*this, shown, where);
    check_range(*this, value.get<double>(), fmt::format("{}", value.get<double>()), where);
    **number = value.get<double>();
  } else if (const auto* list = std::get_if<std::vector<std::string>*>(&storage)) {
    if (!is_list_of_strings(value)) wrong_type(*this, shown, where);
    **list = value.get<std::vector<std::string>>();
  } else if (std::holds_alternative<ParsedText>(storage) && value.is_array()) {
    try {
      std::get<ParsedText>(storage).assign(shown);
    } catch (const Error& error) {
      fail(error.code(), "{}: {}", where, error.what());
    }
  } else {
    if (!value.is_string()) wrong_type(*this, shown, where);
    const auto text = value.get<std::string>();
    check_choice(*this, text, shown, where);
    if (const auto* parsed = std::get_if<ParsedText>(&storage)) {
      parsed->assign(text);
    } else {
      *std::get<std::string*>(storage) = text;
    }
  }
}

void FieldTable::Binder::add(const char* name, FieldRef::Storage storage, Range range,
                             const Choices& choices, std::string help, FieldTraits traits) {
  table.fields_.push_back({section.empty() ? name : section + "." + name, std::move(storage), range,
                           choices.values, std::move(help), current_group, std::move(traits)});
}

const FieldRef& FieldTable::find(const std::string& name, const std::string& where) const {
  std::vector<std::string> known;
  for (const FieldRef& field : fields_) {
    if (field.name == name) return field;
    known.push_back(field.name);
  }
  std::string suggestion = nearest_name(name, known);
  for (const std::string& candidate : known) {  // the right key under a wrong section
    if (suggestion.empty() && key_of(candidate) == key_of(name)) suggestion = candidate;
  }
  if (suggestion.empty()) {
    std::vector<std::string> keys;
    keys.reserve(known.size());
    for (const std::string& candidate : known) keys.push_back(key_of(candidate));
    const std::string key = nearest_name(key_of(name), keys);
    for (size_t i = 0; i < keys.size() && suggestion.empty(); ++i) {
      if (keys[i] == key) suggestion = known[i];
    }
  }
  fail(ErrorCode::usage, "{}: unknown key {}{}", where, name,
       suggestion.empty() ? std::string() : "; did you mean " + suggestion + "?");
}

void FieldTable::assign(const std::string& name, const Json& value,
                        const std::string& where) const {
  find(name, where).assign(value, where);
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
  if (field.type() == FieldRef::Type::text && !quoted) {
    field.assign(text, where);
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
  field.assign(*value, where);
}

Json FieldTable::to_json() const {
  Json object = Json::object();
  for (const FieldRef& field : fields_) {
    const size_t dot = field.name.rfind('.');
    if (dot == std::string::npos) {
      object[field.name] = field.value();
    } else {
      object[field.name.substr(0, dot)][field.name.substr(dot + 1)] = field.value();
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

Json results_json(const FieldTable& table) {
  std::map<std::string, Json> values;
  for (const FieldRef& field : table.fields()) {
    if (field.traits.affects_results) values[field.name] = field.value();
  }
  return Json(values);
}

std::string config_hash(const FieldTable& table) {
  return sha256_hex(json_text(results_json(table)));
}

std::string nearest_name(std::string_view word, const std::vector<std::string>& candidates) {
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
