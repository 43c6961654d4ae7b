#include "osp/template/print.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "osp/template/text.h"
#include "osp/tokenizer/utf8.h"

namespace osp::jinja {
namespace {

// Appends with the limit on the size of a text.
class Printer {
 public:
  explicit Printer(Context& context) : context_(context) {}

  void add(std::string_view text) {
    out_ += text;
    if (out_.size() > kMaxTextBytes) context_.charge_text(out_.size());
    context_.charge(1 + text.size() / 16);
  }
  Context& context() { return context_; }
  std::string take() { return std::move(out_); }

 private:
  Context& context_;
  std::string out_;
};

void print_quoted(Printer& printer, const std::string& text) {
  // Python prefers ' and takes " where the text has ' but not ".
  const bool double_quotes = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = double_quotes ? '"' : '\'';
  std::string out(1, quote);
  const char* at = text.data();
  while (at < text.data() + text.size()) {
    const char* const begin = at;
    const char32_t code = tokenizer::next_character(at);
    if (code == static_cast<unsigned char>(quote) || code == '\\') {
      out += '\\';
      out += static_cast<char>(code);
    } else if (code == '\n') {
      out += "\\n";
    } else if (code == '\r') {
      out += "\\r";
    } else if (code == '\t') {
      out += "\\t";
    } else if (is_printable(code)) {
      out.append(begin, at);
    } else if (code < 0x100) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(code));
    } else if (code < 0x10000) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(code));
    }
  }
  printer.add(out + quote);
}

void print_repr(Printer& printer, const Value& value);

void print_items(Printer& printer, const std::vector<Value>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) printer.add(", ");
    print_repr(printer, items[i]);
  }
}

void print_list(Printer& printer, const List& list) {
  if (list.flavor == Flavor::list) {
    printer.add("[");
    print_items(printer, list.items);
    printer.add("]");
  } else if (list.flavor == Flavor::tuple) {
    printer.add("(");
    print_items(printer, list.items);
    printer.add(list.items.size() == 1 ? ",)" : ")");
  } else {
    printer.context().unsupported("prints a {} (use the filter list)",
                                  list.flavor == Flavor::range  ? "range"
                                  : list.flavor == Flavor::view ? "view of a dict"
                                                                : "lazy sequence");
  }
}

void print_repr(Printer& printer, const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
      printer.add("Undefined");
      break;
    case Kind::text:
      if (value.is_markup()) printer.add("Markup(");
      print_quoted(printer, value.as_text());
      if (value.is_markup()) printer.add(")");
      break;
    case Kind::none:
      printer.add("None");
      break;
    case Kind::boolean:
      printer.add(value.as_boolean() ? "True" : "False");
      break;
    case Kind::integer:
      printer.add(std::to_string(value.as_integer()));
      break;
    case Kind::real:
      printer.add(real_text(value.as_real()));
      break;
    case Kind::list:
      print_list(printer, value.as_list());
      break;
    case Kind::dict: {
      printer.add("{");
      bool first = true;
      for (const auto& [key, member] : value.as_dict().entries) {
        if (!std::exchange(first, false)) printer.add(", ");
        print_repr(printer, key);
        printer.add(": ");
        print_repr(printer, member);
      }
      printer.add("}");
      break;
    }
    default:
      printer.context().unsupported("prints a {}", type_name(value));
  }
}

class JsonPrinter {
 public:
  JsonPrinter(Context& context, const JsonStyle& style)
      : context_(context), printer_(context), style_(style) {
    item_separator_ = style.item_separator.value_or(style.indent ? "," : ", ");
    key_separator_ = style.key_separator.value_or(": ");
  }
  std::string take() { return printer_.take(); }

  void print(const Value& value, int level = 0) {
    switch (value.kind()) {
      case Kind::none:
        printer_.add("null");
        return;
      case Kind::boolean:
        printer_.add(value.as_boolean() ? "true" : "false");
        return;
      case Kind::integer:
        printer_.add(std::to_string(value.as_integer()));
        return;
      case Kind::real:
        printer_.add(number(value.as_real()));
        return;
      case Kind::text:
        print_string(value.as_text());
        return;
      case Kind::list:
        if (value.as_list().flavor <= Flavor::tuple) return print_array(value.as_list(), level);
        break;
      case Kind::dict:
        return print_object(value.as_dict(), level);
      default:
        break;
    }
    if (value.is(Kind::undefined)) context_.need_defined(value);
    context_.refuse("a value of type {} cannot be written as JSON", type_name(value));
  }

 private:
  static std::string number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return real_text(value);
  }
  void break_line(int level) {
    if (!style_.indent) return;
    printer_.add("\n");
    for (int i = 0; i < level; ++i) printer_.add(*style_.indent);
  }
  void print_array(const List& list, int level) {
    if (list.items.empty()) return printer_.add("[]");
    printer_.add("[");
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) printer_.add(item_separator_);
      break_line(level + 1);
      print(list.items[i], level + 1);
    }
    break_line(level);
    printer_.add("]");
  }
  void print_object(const Dict& dict, int level) {
    if (dict.entries.empty()) return printer_.add("{}");
    auto entries = dict.entries;
    if (style_.sort_keys) sort(entries);
    printer_.add("{");
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) printer_.add(item_separator_);
      break_line(level + 1);
      print_string(key_text(entries[i].first));
      printer_.add(key_separator_);
      print(entries[i].second, level + 1);
    }
    break_line(level);
    printer_.add("}");
  }
  void sort(std::vector<std::pair<Value, Value>>& entries) {
    context_.charge(entries.size() * 20);
    for (const auto& entry : entries) {
      if (!entry.first.is(Kind::text)) {
        context_.unsupported("sorts keys of JSON that are not all strings");
      }
    }
    std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
      return a.first.as_text() < b.first.as_text();
    });
  }
  std::string key_text(const Value& key) {
    switch (key.kind()) {
      case Kind::text:
        return key.as_text();
      case Kind::none:
        return "null";
      case Kind::boolean:
        return key.as_boolean() ? "true" : "false";
      case Kind::integer:
        return std::to_string(key.as_integer());
      case Kind::real:
        return number(key.as_real());
      default:
        context_.refuse("a key of type {} cannot be written as JSON", type_name(key));
    }
  }
  void print_string(const std::string& text) {
    std::string out = "\"";
    const char* at = text.data();
    while (at < text.data() + text.size()) {
      const char* const begin = at;
      const char32_t code = tokenizer::next_character(at);
      if (code == '"' || code == '\\') {
        out += '\\';
        out += static_cast<char>(code);
      } else if (code < 0x20) {
        out += escape(code);
      } else if (code >= 0x7F && style_.ascii) {
        out += code == 0x7F ? "\x7F" : escape_ascii(code);
      } else {
        out.append(begin, at);
      }
    }
    printer_.add(out + '"');
  }
  static std::string escape(char32_t code) {
    switch (code) {
      case '\n':
        return "\\n";
      case '\r':
        return "\\r";
      case '\t':
        return "\\t";
      case '\b':
        return "\\b";
      case '\f':
        return "\\f";
      default:
        return fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
    }
  }
  static std::string escape_ascii(char32_t code) {
    if (code < 0x10000) return fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
    const uint32_t rest = static_cast<uint32_t>(code) - 0x10000;
    return fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (rest >> 10), 0xDC00 + (rest & 0x3FF));
  }

  Context& context_;
  Printer printer_;
  const JsonStyle& style_;
  std::string item_separator_;
  std::string key_separator_;
};

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // Shortest digits, as d.ddde±XX.
  char buffer[40];
  const auto result =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(result.ptr - buffer));
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  const bool negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  const std::string sign = negative ? "-" : "";
  const auto size = static_cast<int>(digits.size());
  // Python's layout: an exponent below 1e-4 and from 1e16 on.
  if (exponent < -4 || exponent >= 16) {
    const std::string fraction = size > 1 ? "." + digits.substr(1) : "";
    return fmt::format("{}{}{}e{}{:02}", sign, digits[0], fraction, exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (size <= exponent + 1) {
    return sign + digits + std::string(static_cast<size_t>(exponent + 1 - size), '0') + ".0";
  }
  const auto point = static_cast<size_t>(exponent + 1);
  return sign + digits.substr(0, point) + "." + digits.substr(point);
}

std::string to_text(Context& context, const Value& value) {
  if (value.is(Kind::text)) return value.as_text();
  if (value.is(Kind::undefined)) return "";
  Printer printer(context);
  print_repr(printer, value);
  return printer.take();
}

std::string to_json(Context& context, const Value& value, const JsonStyle& style) {
  JsonPrinter printer(context, style);
  printer.print(value);
  return printer.take();
}

}  // namespace osp::jinja
