// Filters of texts and numbers, and of any value as a text.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "osp/template/filters.h"
#include "osp/template/methods.h"
#include "osp/template/operators.h"
#include "osp/template/print.h"
#include "osp/template/text.h"

namespace osp::jinja {
namespace {

Value trim_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "trim", arguments, {"chars"});
  std::optional<std::string> characters;
  if (bound.has_value(0)) characters = bound.text(0);
  const std::string text = to_text(context, value);
  context.charge(1 + text.size() * (16 + (characters ? characters->size() : 0)) / 1024);
  return context.text(std::string(strip(text, characters)));
}

// A filter without arguments that maps texts.
template <std::string (*Map)(std::string_view)>
Value map_text(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "the filter", arguments, {});
  const std::string text = to_text(context, value);
  context.charge_text(text.size());
  context.charge(text.size() / 8);
  return context.text(Map(text));
}

std::string same_text(std::string_view text) { return std::string(text); }

Value safe_filter(Context& context, const Value& value, const Arguments& arguments) {
  return map_text<same_text>(context, value, arguments).as_markup();
}

Value escape_filter(Context& context, const Value& value, const Arguments& arguments) {
  if (value.is_markup()) return value;
  return map_text<escape_html>(context, value, arguments).as_markup();
}

Value capitalize_filter(Context& context, const Value& value, const Arguments& arguments) {
  return map_text<capitalize>(context, value, arguments);
}

Value replace_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "replace", arguments, {"old", "new", "count"}, 2);
  const int64_t most = bound.has_value(2) ? bound.integer(2, -1) : -1;
  return context.text(limited_replace(context, to_text(context, value), to_text(context, bound[0]),
                                      to_text(context, bound[1]), most));
}

Value indent_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "indent", arguments, {"width", "first", "blank"});
  std::string indent(4, ' ');
  if (bound.has(0) && bound[0].is(Kind::text)) {
    indent = bound[0].as_text();
  } else if (bound.has(0)) {
    const int64_t width = bound.integer(0, 4);
    if (width > 1000) context.unsupported("indents by more than 1,000 spaces");
    indent.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (!value.is(Kind::text)) {
    context.need_defined(value);
    context.refuse("indent takes a text, found {}", type_name(value));
  }
  const bool blank = bound.flag(2, false);
  std::string out = bound.flag(1, false) ? indent : "";
  bool is_first = true;
  // A line end is added so that one at the end makes an empty last line.
  context.charge_text(value.as_text().size() * 2);
  for (const std::string& line : split_lines(value.as_text() + "\n", false)) {
    if (!std::exchange(is_first, false)) out += blank || !line.empty() ? "\n" + indent : "\n";
    out += line;
    context.charge_text(out.size() > kMaxTextBytes ? out.size() : indent.size());
  }
  return context.text(std::move(out));
}

Value tojson_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "tojson", arguments,
                    {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ascii = bound.flag(0, false);
  style.sort_keys = bound.flag(3, false);
  if (bound.has_value(1)) {
    if (bound[1].is(Kind::text)) {
      style.indent = bound[1].as_text();
    } else {
      const int64_t width = bound.integer(1, 0);
      if (width > 100) context.unsupported("indents JSON by more than 100 spaces");
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (bound.has_value(2)) {
    const std::vector<Value> separators = context.iterate(bound[2]);
    const bool pair =
        separators.size() == 2 && separators[0].is(Kind::text) && separators[1].is(Kind::text);
    if (!pair) context.refuse("tojson takes two texts as separators");
    style.item_separator = separators[0].as_text();
    style.key_separator = separators[1].as_text();
  }
  return context.text(to_json(context, value, style));
}

Value default_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "default", arguments, {"default_value", "boolean"});
  const bool replaces = value.is(Kind::undefined) || (bound.flag(1, false) && !truth(value));
  return replaces ? bound.get(0, Value::text("")) : value;
}

// Digits as Python's int() and float() take them: without white space around and single _ between.
std::optional<std::string> plain_digits(std::string_view text) {
  text = strip(text, std::nullopt);
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [&](size_t at) {
      return at < text.size() && text[at] >= '0' && text[at] <= '9';
    };
    if (text[i] == '_') {
      if (i == 0 || !digit(i - 1) || !digit(i + 1)) return std::nullopt;
      continue;
    }
    out += text[i];
  }
  if (out.empty()) return std::nullopt;
  return out;
}

std::optional<double> parse_real(std::string_view text) {
  const std::optional<std::string> digits = plain_digits(text);
  if (!digits) return std::nullopt;
  std::string_view rest = *digits;
  const bool negative = rest[0] == '-';
  if (negative || rest[0] == '+') rest.remove_prefix(1);
  const std::string word = lower(rest);
  double value = 0;
  if (word == "inf" || word == "infinity") {
    value = HUGE_VAL;
  } else if (word == "nan") {
    value = NAN;
  } else {
    if (word.empty() || word.find_first_not_of("0123456789.e+-") != std::string::npos) {
      return std::nullopt;
    }
    if (word[0] == '-' || word[0] == '+') return std::nullopt;
    char* end = nullptr;
    value = std::strtod(word.c_str(), &end);
    if (end != word.c_str() + word.size()) return std::nullopt;
  }
  return negative ? -value : value;
}

std::optional<int64_t> parse_integer(Context& context, std::string_view text) {
  const std::optional<std::string> digits = plain_digits(text);
  if (!digits) return std::nullopt;
  std::string_view rest = *digits;
  if (rest[0] == '+') rest.remove_prefix(1);
  if (rest.empty() || rest.starts_with("+") || (digits->front() == '+' && rest[0] == '-')) {
    return std::nullopt;
  }
  int64_t value = 0;
  const auto result = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (result.ptr != rest.data() + rest.size()) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    context.unsupported("reads an integer of more than 64 bits");
  }
  if (result.ec != std::errc()) return std::nullopt;
  return value;
}

Value truncate_real(Context& context, double value) {
  if (std::abs(value) >= 9.2e18) context.unsupported("an integer of more than 64 bits");
  return Value::integer(static_cast<int64_t>(value));
}

Value int_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "int", arguments, {"default", "base"});
  const Value otherwise = bound.get(0, Value::integer(0));
  if (bound.integer(1, 10) != 10) context.unsupported("int with a base other than 10");
  context.need_defined(value);
  if (value.is_integral()) return Value::integer(value.as_integer());
  if (value.is(Kind::real)) {
    if (std::isinf(value.as_real())) context.refuse("infinity is no integer");
    if (std::isnan(value.as_real())) return otherwise;
    return truncate_real(context, value.as_real());
  }
  if (!value.is(Kind::text)) return otherwise;
  context.charge_text(value.as_text().size());
  if (const auto number = parse_integer(context, value.as_text())) return Value::integer(*number);
  const std::optional<double> real = parse_real(value.as_text());
  if (!real || !std::isfinite(*real)) return otherwise;
  return truncate_real(context, *real);
}

Value float_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "float", arguments, {"default"});
  context.need_defined(value);
  if (value.is_number()) return Value::real(value.as_real());
  if (value.is(Kind::text)) {
    context.charge_text(value.as_text().size());
    if (const auto real = parse_real(value.as_text())) return Value::real(*real);
  }
  return bound.get(0, Value::real(0));
}

Value abs_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "abs", arguments, {});
  context.need_defined(value);
  if (!value.is_number()) context.refuse("abs takes a number, found {}", type_name(value));
  if (value.is(Kind::real)) return Value::real(std::abs(value.as_real()));
  return value.as_integer() < 0 ? negate(context, value) : Value::integer(value.as_integer());
}

Value round_filter(Context& context, const Value& value, const Arguments& arguments) {
  const Bound bound(context, "round", arguments, {"precision", "method"});
  const int64_t precision = bound.integer(0, 0);
  const std::string method = bound.has(1) ? bound.text(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    context.refuse("round takes common, ceil or floor");
  }
  if (precision < 0 || precision > 15) context.unsupported("round to {} digits", precision);
  context.need_defined(value);
  if (!value.is_number()) context.refuse("round takes a number, found {}", type_name(value));
  if (method == "common" && value.is_integral()) return Value::integer(value.as_integer());
  const double number = value.as_real();
  if (method == "common") {
    if (!std::isfinite(number)) return Value::real(number);
    // Printing rounds the exact decimal value, half to even, as Python's round does.
    return Value::real(std::strtod(fmt::format("{:.{}f}", number, precision).c_str(), nullptr));
  }
  if (!std::isfinite(number)) context.refuse("infinity cannot be rounded");
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = number * scale;
  if (std::abs(scaled) >= 9e15) context.unsupported("rounds a number of more than 53 bits");
  // Through an integer, which knows no negative zero.
  const double whole = (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) + 0.0;
  return Value::real(whole / scale);
}

constexpr FilterRow kTextFilters[] = {
    {"trim", trim_filter},
    {"upper", map_text<upper>},
    {"lower", map_text<lower>},
    {"capitalize", capitalize_filter},
    {"title", map_text<jinja_title>},
    {"string", map_text<same_text>},
    {"safe", safe_filter},
    {"e", escape_filter},
    {"escape", escape_filter},
    {"replace", replace_filter},
    {"indent", indent_filter},
    {"tojson", tojson_filter},
    {"default", default_filter},
    {"d", default_filter},
    {"int", int_filter},
    {"float", float_filter},
    {"abs", abs_filter},
    {"round", round_filter},
};

// True if the text that a filter makes of a marked one is marked too.
bool keeps_markup(std::string_view name) {
  constexpr std::string_view kKeepers[] = {"trim",   "upper", "lower",   "capitalize",
                                           "string", "last",  "reverse", "indent"};
  return std::find(std::begin(kKeepers), std::end(kKeepers), name) != std::end(kKeepers);
}

}  // namespace

Filter find_text_filter(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kTextFilters), std::end(kTextFilters),
                                         [&](const FilterRow& row) { return row.name == name; });
  return found == std::end(kTextFilters) ? nullptr : found->apply;
}

bool is_filter(std::string_view name) {
  return find_text_filter(name) != nullptr || find_sequence_filter(name) != nullptr;
}

Value apply_filter(Context& context, const std::string& name, const Value& value,
                   const Arguments& arguments) {
  context.charge(1);
  Filter filter = find_text_filter(name);
  if (filter == nullptr) filter = find_sequence_filter(name);
  if (filter == nullptr) context.unsupported("the filter {} is unknown", name);
  Value result = filter(context, value, arguments);
  return value.is_markup() && keeps_markup(name) ? result.as_markup() : result;
}

}  // namespace osp::jinja
