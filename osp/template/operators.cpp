#include "osp/template/operators.h"

#include <algorithm>
#include <cmath>

#include "osp/template/print.h"
#include "osp/template/text.h"

namespace osp::jinja {
namespace {

// Numbers are compared exactly: a long double holds every 64-bit integer and every double.
std::partial_ordering order_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.as_integer() <=> b.as_integer();
  const auto wide = [](const Value& value) {
    return value.is_integral() ? static_cast<long double>(value.as_integer())
                               : static_cast<long double>(value.as_real());
  };
  return wide(a) <=> wide(b);
}

bool equal_items(Context& context, const std::vector<Value>& a, const std::vector<Value>& b) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(),
                    [&](const Value& x, const Value& y) { return equal(context, x, y); });
}

const Value* find_key(Context& context, const Dict& dict, const Value& key) {
  context.charge(1 + dict.entries.size() / 4);
  for (const auto& [name, value] : dict.entries) {
    if (equal(context, name, key)) return &value;
  }
  return nullptr;
}

bool equal_dicts(Context& context, const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* const other = find_key(context, b, key);
    if (other == nullptr || !equal(context, value, *other)) return false;
  }
  return true;
}

bool is_list(const Value& value, Flavor flavor) {
  return value.is(Kind::list) && value.as_list().flavor == flavor;
}

[[noreturn]] void refuse_operands(Context& context, const char* operation, const Value& a,
                                  const Value& b) {
  context.need_defined(a);
  context.need_defined(b);
  context.refuse("cannot {} values of types {} and {}", operation, type_name(a), type_name(b));
}

void need_numbers(Context& context, const char* operation, const Value& a, const Value& b) {
  if (!a.is_number() || !b.is_number()) refuse_operands(context, operation, a, b);
}

[[noreturn]] void refuse_size(Context& context) {
  context.unsupported("computes an integer of more than 64 bits");
}

Value repeat(Context& context, const Value& value, int64_t times) {
  const auto number = static_cast<size_t>(std::max<int64_t>(times, 0));
  if (value.is(Kind::text)) {
    const std::string& text = value.as_text();
    if (!text.empty() && number > kMaxTextBytes / text.size()) {
      context.charge_text(kMaxTextBytes + 1);
    }
    std::string out;
    out.reserve(text.size() * number);
    for (size_t i = 0; i < number && !text.empty(); ++i) out += text;
    Value result = context.text(std::move(out));
    return value.is_markup() ? result.as_markup() : result;
  }
  const List& list = value.as_list();
  if (!list.items.empty() && number > kMaxItems / list.items.size()) {
    context.too_much("a list of more than 1,000,000 items");
  }
  std::vector<Value> items;
  for (size_t i = 0; i < number && !list.items.empty(); ++i) {
    items.insert(items.end(), list.items.begin(), list.items.end());
  }
  return context.list(std::move(items), list.flavor);
}

bool repeats(const Value& value) {
  return value.is(Kind::text) || is_list(value, Flavor::list) || is_list(value, Flavor::tuple);
}

Value integer_power(Context& context, int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) refuse_size(context);
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) refuse_size(context);
  }
  return Value::integer(result);
}

}  // namespace

bool equal(Context& context, const Value& a, const Value& b) {
  context.charge(1);
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::undefined:
    case Kind::none:
      return true;
    case Kind::text:
      if (a.as_text().size() != b.as_text().size()) return false;
      context.charge(a.as_text().size() / 64);
      return a.as_text() == b.as_text();
    case Kind::list: {
      const List& x = a.as_list();
      const List& y = b.as_list();
      if (&x == &y) return true;
      return x.flavor == y.flavor && x.flavor != Flavor::iterator &&
             equal_items(context, x.items, y.items);
    }
    case Kind::dict:
      return equal_dicts(context, a.as_dict(), b.as_dict());
    default:
      return a.address() == b.address();
  }
}

std::partial_ordering order(Context& context, const Value& a, const Value& b) {
  context.charge(1);
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is(Kind::text) && b.is(Kind::text)) {
    context.charge(std::min(a.as_text().size(), b.as_text().size()) / 64);
    return a.as_text().compare(b.as_text()) <=> 0;  // UTF-8 sorts as code points do
  }
  const bool lists = is_list(a, Flavor::list) && is_list(b, Flavor::list);
  const bool tuples = is_list(a, Flavor::tuple) && is_list(b, Flavor::tuple);
  if (!lists && !tuples) refuse_operands(context, "compare", a, b);
  const std::vector<Value>& x = a.as_list().items;
  const std::vector<Value>& y = b.as_list().items;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    if (!equal(context, x[i], y[i])) return order(context, x[i], y[i]);
  }
  return x.size() <=> y.size();
}

bool contains(Context& context, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::text: {
      if (!item.is(Kind::text)) {
        context.need_defined(item);
        context.refuse("a text can only contain a text, found {}", type_name(item));
      }
      const std::string& text = container.as_text();
      context.charge(1 + text.size() * (16 + item.as_text().size()) / 1024);
      return text.find(item.as_text()) != text.npos;
    }
    case Kind::dict:
      need_hashable(context, item);
      return find_key(context, container.as_dict(), item) != nullptr;
    case Kind::undefined:
      return false;
    default:
      break;
  }
  if (!container.is(Kind::list)) {
    context.refuse("a value of type {} contains nothing", type_name(container));
  }
  const std::vector<Value> items = context.iterate(container);
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& other) { return equal(context, other, item); });
}

Value add(Context& context, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    int64_t sum = 0;
    if (__builtin_add_overflow(a.as_integer(), b.as_integer(), &sum)) refuse_size(context);
    return Value::integer(sum);
  }
  if (a.is_number() && b.is_number()) return Value::real(a.as_real() + b.as_real());
  if (a.is(Kind::text) && b.is(Kind::text)) {
    context.charge_text(a.as_text().size() + b.as_text().size());
    if (!a.is_markup() && !b.is_markup()) return Value::text(a.as_text() + b.as_text());
    // A marked text is added to another one only once that is escaped.
    const auto escaped = [](const Value& part) {
      return part.is_markup() ? part.as_text() : escape_html(part.as_text());
    };
    return context.text(escaped(a) + escaped(b)).as_markup();
  }
  const bool lists = is_list(a, Flavor::list) && is_list(b, Flavor::list);
  const bool tuples = is_list(a, Flavor::tuple) && is_list(b, Flavor::tuple);
  if (!lists && !tuples) refuse_operands(context, "add", a, b);
  context.charge(a.as_list().items.size() + b.as_list().items.size());
  std::vector<Value> items = a.as_list().items;
  items.insert(items.end(), b.as_list().items.begin(), b.as_list().items.end());
  return context.list(std::move(items), a.as_list().flavor);
}

Value subtract(Context& context, const Value& a, const Value& b) {
  need_numbers(context, "subtract", a, b);
  if (!a.is_integral() || !b.is_integral()) return Value::real(a.as_real() - b.as_real());
  int64_t difference = 0;
  if (__builtin_sub_overflow(a.as_integer(), b.as_integer(), &difference)) refuse_size(context);
  return Value::integer(difference);
}

Value multiply(Context& context, const Value& a, const Value& b) {
  if (repeats(a) && b.is_integral()) return repeat(context, a, b.as_integer());
  if (repeats(b) && a.is_integral()) return repeat(context, b, a.as_integer());
  need_numbers(context, "multiply", a, b);
  if (!a.is_integral() || !b.is_integral()) return Value::real(a.as_real() * b.as_real());
  int64_t product = 0;
  if (__builtin_mul_overflow(a.as_integer(), b.as_integer(), &product)) refuse_size(context);
  return Value::integer(product);
}

Value divide(Context& context, const Value& a, const Value& b) {
  need_numbers(context, "divide", a, b);
  if (b.as_real() == 0) context.refuse("division by zero");
  if (!a.is_integral() || !b.is_integral()) return Value::real(a.as_real() / b.as_real());
  // Rounded once where a double holds both integers; beyond, rounded twice.
  return Value::real(static_cast<double>(static_cast<long double>(a.as_integer()) /
                                         static_cast<long double>(b.as_integer())));
}

Value floor_divide(Context& context, const Value& a, const Value& b) {
  need_numbers(context, "divide", a, b);
  if (b.as_real() == 0) context.refuse("division by zero");
  if (!a.is_integral() || !b.is_integral()) {
    const double x = a.as_real();
    const double y = b.as_real();
    const double rest = modulo(context, a, b).as_real();
    const double quotient = (x - rest) / y;
    const double whole = std::floor(quotient);
    const double rounded = quotient - whole > 0.5 ? whole + 1 : whole;
    return Value::real(rounded == 0 ? std::copysign(0.0, x / y) : rounded);
  }
  const int64_t x = a.as_integer();
  const int64_t y = b.as_integer();
  if (y == -1) return negate(context, Value::integer(x));
  return Value::integer(x / y - (x % y != 0 && (x < 0) != (y < 0) ? 1 : 0));
}

Value modulo(Context& context, const Value& a, const Value& b) {
  if (a.is(Kind::text)) context.unsupported("formats a text with %");
  need_numbers(context, "divide", a, b);
  if (b.as_real() == 0) context.refuse("division by zero");
  if (!a.is_integral() || !b.is_integral()) {
    const double y = b.as_real();
    double rest = std::fmod(a.as_real(), y);
    if (rest == 0) return Value::real(std::copysign(0.0, y));
    if ((rest < 0) != (y < 0)) rest += y;
    return Value::real(rest);
  }
  const int64_t y = b.as_integer();
  if (y == -1) return Value::integer(0);
  const int64_t rest = a.as_integer() % y;
  return Value::integer(rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest);
}

Value power(Context& context, const Value& a, const Value& b) {
  need_numbers(context, "raise", a, b);
  if (a.is_integral() && b.is_integral() && b.as_integer() >= 0) {
    return integer_power(context, a.as_integer(), b.as_integer());
  }
  const double base = a.as_real();
  const double exponent = b.as_real();
  if (base == 0 && exponent < 0) context.refuse("zero cannot be raised to a negative power");
  if (base < 0 && std::isfinite(exponent) && exponent != std::floor(exponent)) {
    context.unsupported("computes a complex number");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) {
    context.refuse("a power is too large");
  }
  return Value::real(result);
}

Value negate(Context& context, const Value& a) {
  if (a.is(Kind::real)) return Value::real(-a.as_real());
  return subtract(context, Value::integer(0), a);
}

Value positive(Context& context, const Value& a) {
  if (a.is(Kind::real)) return a;
  return add(context, Value::integer(0), a);
}

Value concatenate(Context& context, const std::vector<Value>& parts) {
  std::string out;
  for (const Value& part : parts) {
    out += to_text(context, part);
    if (out.size() > kMaxTextBytes) context.charge_text(out.size());
  }
  return context.text(std::move(out));
}

void need_hashable(Context& context, const Value& key) {
  const bool unhashable =
      key.is(Kind::dict) || is_list(key, Flavor::list) || is_list(key, Flavor::view);
  if (unhashable) context.refuse("a value of type {} cannot be a key", type_name(key));
  if (is_list(key, Flavor::tuple)) {
    for (const Value& item : key.as_list().items) need_hashable(context, item);
  }
}

void insert(Context& context, std::vector<std::pair<Value, Value>>& entries, const Value& key,
            const Value& value) {
  need_hashable(context, key);
  context.charge(1 + entries.size() / 4);
  for (auto& entry : entries) {
    if (!equal(context, entry.first, key)) continue;
    entry.second = value;
    return;
  }
  entries.emplace_back(key, value);
}

}  // namespace osp::jinja
