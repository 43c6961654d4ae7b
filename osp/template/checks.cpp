#include "osp/template/checks.h"

#include <algorithm>

#include "osp/template/operators.h"

namespace osp::jinja {
namespace {

bool is_flag(const Value& value, bool flag) {
  return value.is(Kind::boolean) && value.as_boolean() == flag;
}

bool iterable(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::text:
    case Kind::list:
    case Kind::dict:
    case Kind::loop:
      return true;
    default:
      return false;
  }
}

// Has a length and elements.
bool sequence(const Value& value) {
  if (value.is(Kind::list)) {
    return value.as_list().flavor != Flavor::view && value.as_list().flavor != Flavor::iterator;
  }
  return value.is(Kind::undefined) || value.is(Kind::text) || value.is(Kind::dict);
}

bool divides(Context& context, const Value& value, const Value& by) {
  return equal(context, modulo(context, value, by), Value::integer(0));
}

using Check = bool (*)(Context&, const Value&, const Value&);

struct Row {
  std::string_view name;
  size_t num_arguments;
  Check holds;
};

#define OSP_CHECK_ROW(condition) [](Context&, const Value& x, const Value&) { return condition; }
#define OSP_CHECK_PAIR(condition) \
  [](Context& context, const Value& x, const Value& y) { return condition; }

constexpr Row kChecks[] = {
    {"defined", 0, OSP_CHECK_ROW(!x.is(Kind::undefined))},
    {"undefined", 0, OSP_CHECK_ROW(x.is(Kind::undefined))},
    {"none", 0, OSP_CHECK_ROW(x.is(Kind::none))},
    {"string", 0, OSP_CHECK_ROW(x.is(Kind::text))},
    {"mapping", 0, OSP_CHECK_ROW(x.is(Kind::dict))},
    {"sequence", 0, OSP_CHECK_ROW(sequence(x))},
    {"iterable", 0, OSP_CHECK_ROW(iterable(x))},
    {"number", 0, OSP_CHECK_ROW(x.is_number())},
    {"integer", 0, OSP_CHECK_ROW(x.is(Kind::integer))},
    {"float", 0, OSP_CHECK_ROW(x.is(Kind::real))},
    {"boolean", 0, OSP_CHECK_ROW(x.is(Kind::boolean))},
    {"true", 0, OSP_CHECK_ROW(is_flag(x, true))},
    {"false", 0, OSP_CHECK_ROW(is_flag(x, false))},
    // In Jinja what is undefined can be called, to fail then.
    {"callable", 0,
     OSP_CHECK_ROW(x.is(Kind::callable) || x.is(Kind::undefined) || x.is(Kind::loop))},
    {"odd", 0,
     [](Context& context, const Value& x, const Value&) {
       return equal(context, modulo(context, x, Value::integer(2)), Value::integer(1));
     }},
    {"even", 0,
     [](Context& context, const Value& x, const Value&) {
       return divides(context, x, Value::integer(2));
     }},
    {"divisibleby", 1, OSP_CHECK_PAIR(divides(context, x, y))},
    {"in", 1, OSP_CHECK_PAIR(contains(context, y, x))},
    {"eq", 1, OSP_CHECK_PAIR(equal(context, x, y))},
    {"equalto", 1, OSP_CHECK_PAIR(equal(context, x, y))},
    {"==", 1, OSP_CHECK_PAIR(equal(context, x, y))},
    {"ne", 1, OSP_CHECK_PAIR(!equal(context, x, y))},
    {"!=", 1, OSP_CHECK_PAIR(!equal(context, x, y))},
    {"lt", 1, OSP_CHECK_PAIR(order(context, x, y) < 0)},
    {"<", 1, OSP_CHECK_PAIR(order(context, x, y) < 0)},
    {"lessthan", 1, OSP_CHECK_PAIR(order(context, x, y) < 0)},
    {"le", 1, OSP_CHECK_PAIR(order(context, x, y) <= 0)},
    {"<=", 1, OSP_CHECK_PAIR(order(context, x, y) <= 0)},
    {"gt", 1, OSP_CHECK_PAIR(order(context, x, y) > 0)},
    {">", 1, OSP_CHECK_PAIR(order(context, x, y) > 0)},
    {"greaterthan", 1, OSP_CHECK_PAIR(order(context, x, y) > 0)},
    {"ge", 1, OSP_CHECK_PAIR(order(context, x, y) >= 0)},
    {">=", 1, OSP_CHECK_PAIR(order(context, x, y) >= 0)},
};

#undef OSP_CHECK_ROW
#undef OSP_CHECK_PAIR

const Row* find_check(std::string_view name) {
  const auto* const found = std::find_if(std::begin(kChecks), std::end(kChecks),
                                         [&](const Row& row) { return row.name == name; });
  return found == std::end(kChecks) ? nullptr : found;
}

}  // namespace

bool is_check(std::string_view name) { return find_check(name) != nullptr; }

bool check(Context& context, const std::string& name, const Value& value,
           const Arguments& arguments) {
  const Row* const row = find_check(name);
  if (row == nullptr) context.unsupported("the test {} is unknown", name);
  context.charge(1);
  if (!arguments.named.empty() || arguments.positional.size() != row->num_arguments) {
    context.refuse("the test {} takes {} arguments", name, row->num_arguments);
  }
  return row->holds(context, value, row->num_arguments == 0 ? Value() : arguments.positional[0]);
}

}  // namespace osp::jinja
