#include "osp/cli/option_text.h"
#include "osp/base/json_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace osp {
namespace {

// A higher limit is only a guard against mistakes and is not worth a reader's time.
constexpr double kLargestShownLimit = 1e5;

std::string range_text(const Range& range) {
  const bool low = std::isfinite(range.low), high = range.high < kLargestShownLimit;
  if (low && high) return fmt::format("{} to {}", range.low, range.high);
  if (low && range.low > 0) return fmt::format("at least {}", range.low);
  return "";
}

std::string default_text(const FieldRef& field) {
  if (field.traits.required || field.traits.positional) return "";
  if (field.type() == FieldRef::Type::boolean) return "";
  const Json value = field.value();
  std::string text;
  if (value.is_array()) {
    text = fmt::format("{}", fmt::join(value.get<std::vector<std::string>>(), " "));
  } else if (value.is_string()) {
    text = value.get<std::string>();
  } else if (value.is_number_float()) {
    text = fmt::format("{}", value.get<double>());
  } else {
    text = json_text(value);
  }
  if (text.empty()) return "";
  const std::string unit = field.traits.unit.empty() ? "" : " " + field.traits.unit;
  return fmt::format("default {}{}", text, unit);
}

// The whole text as a number of type T.
template <class T>
bool parse_number(const std::string& text, T& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace

std::string option_name(const std::string& field) {
  std::string name = "--" + field;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

std::string option_name(const FieldRef& field) {
  return field.traits.positional ? field.name : option_name(field.name);
}

std::string option_placeholder(const FieldRef& field) {
  if (!field.traits.value.empty()) return field.traits.value;
  if (field.type() == FieldRef::Type::integer) return "N";
  if (field.type() == FieldRef::Type::number) return "X";
  return field.choices.empty() ? "TEXT" : "NAME";
}

std::string option_help(const FieldRef& field) {
  const bool repeated = field.type() == FieldRef::Type::list && !field.traits.positional;
  std::vector<std::string> notes;
  if (field.traits.required) notes.push_back("required");
  if (!field.traits.needs.empty()) notes.push_back("needs " + option_name(field.traits.needs));
  if (repeated) notes.push_back("may be repeated");
  notes.push_back(fmt::format("{}", fmt::join(field.choices, ", ")));
  notes.push_back(range_text(field.range));
  notes.push_back(default_text(field));
  std::erase(notes, "");
  if (notes.empty()) return field.help;
  return fmt::format("{} ({})", field.help, fmt::join(notes, "; "));
}

Json option_value(const FieldRef& field, const std::string& text) {
  if (field.type() == FieldRef::Type::integer) {
    int64_t integer = 0;
    uint64_t natural = 0;
    if (parse_number(text, integer)) return integer;
    if (parse_number(text, natural)) return natural;
  }
  double number = 0;
  if (field.type() == FieldRef::Type::number && parse_number(text, number)) return number;
  return text;
}

}  // namespace osp
