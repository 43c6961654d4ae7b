#include "osp/template/interpreter.h"

#include <algorithm>

#include "osp/template/access.h"
#include "osp/template/checks.h"
#include "osp/template/filters.h"
#include "osp/template/methods.h"
#include "osp/template/operators.h"
#include "osp/template/print.h"

namespace osp::jinja {

Value Interpreter::evaluate(const Expression& node) {
  context_.charge(1);
  context_.line = node.line;
  if (context_.depth >= kMaxCallDepth) context_.too_much("too many macros inside each other");
  ++context_.depth;
  Value value = evaluate_node(node);
  --context_.depth;
  return value;
}

Value Interpreter::evaluate_node(const Expression& node) {
  switch (node.op) {
    case Op::constant:
      return node.constant;
    case Op::name:
      return name(node);
    case Op::list:
    case Op::tuple:
      return list(node);
    case Op::dict:
      return dict(node);
    case Op::attribute: {
      const Value value = evaluate(*node.parts[0]);
      context_.line = node.line;
      return attribute(context_, value, node.name);
    }
    case Op::item: {
      const Value value = evaluate(*node.parts[0]);
      const Value key = evaluate(*node.parts[1]);
      context_.line = node.line;
      return item(context_, value, key);
    }
    case Op::slice:
      return slice_of(node);
    case Op::call:
      return call(node);
    case Op::filter:
      return filter(node);
    case Op::test: {
      const Value value = evaluate(*node.parts[0]);
      const Arguments arguments = arguments_of(node);
      context_.line = node.line;
      return Value::boolean(check(context_, node.name, value, arguments));
    }
    case Op::negate:
      return negate(context_, evaluate(*node.parts[0]));
    case Op::positive:
      return positive(context_, evaluate(*node.parts[0]));
    case Op::logical_not:
      return Value::boolean(!truth(evaluate(*node.parts[0])));
    case Op::logical_and: {
      Value left = evaluate(*node.parts[0]);
      return truth(left) ? evaluate(*node.parts[1]) : left;
    }
    case Op::logical_or: {
      Value left = evaluate(*node.parts[0]);
      return truth(left) ? left : evaluate(*node.parts[1]);
    }
    case Op::compare:
      return Value::boolean(compare(node));
    case Op::conditional:
      return conditional(node);
    default:
      return binary(node);
  }
}

Value Interpreter::name(const Expression& node) {
  if (const Value* const found = scope_->find(node.name)) return *found;
  if (is_function(node.name)) {
    auto function = std::make_shared<Callable>();
    function->what = Callable::What::function;
    function->name = node.name;
    return Value(std::shared_ptr<const Callable>(std::move(function)));
  }
  return Value::undefined("'" + node.name + "' is undefined");
}

Value Interpreter::list(const Expression& node) {
  std::vector<Value> items;
  for (const auto& part : node.parts) items.push_back(evaluate(*part));
  return context_.list(std::move(items), node.op == Op::tuple ? Flavor::tuple : Flavor::list);
}

Value Interpreter::dict(const Expression& node) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < node.parts.size(); i += 2) {
    const Value key = evaluate(*node.parts[i]);
    const Value value = evaluate(*node.parts[i + 1]);
    insert(context_, entries, key, value);
  }
  return context_.dict(std::move(entries));
}

Value Interpreter::slice_of(const Expression& node) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (node.parts[i]) parts[i] = evaluate(*node.parts[i]);
  }
  const auto bound = [&](size_t i) { return node.parts[i] ? &parts[i] : nullptr; };
  context_.line = node.line;
  return slice(context_, parts[0], bound(1), bound(2), bound(3));
}

Arguments Interpreter::arguments_of(const Expression& node) {
  Arguments arguments;
  for (size_t i = 1; i < node.parts.size(); ++i) {
    arguments.positional.push_back(evaluate(*node.parts[i]));
  }
  for (const auto& [keyword, part] : node.keywords) {
    arguments.named.emplace_back(keyword, evaluate(*part));
  }
  return arguments;
}

Value Interpreter::call(const Expression& node) {
  const Expression& callee_node = *node.parts[0];
  const Value callee = evaluate(callee_node);
  if (callee.is(Kind::undefined) && callee_node.op == Op::name) {
    context_.unsupported("the function {} is unknown", callee_node.name);
  }
  context_.need_defined(callee);
  if (!callee.is(Kind::callable)) {
    context_.refuse("a value of type {} cannot be called", type_name(callee));
  }
  context_.charge(10);  // a call and its arguments cost more than a node
  const Arguments arguments = arguments_of(node);
  context_.line = node.line;
  const Callable& callable = callee.as_callable();
  switch (callable.what) {
    case Callable::What::method:
      return call_method(context_, callable.self, callable.name, arguments);
    case Callable::What::macro:
      return call_macro(callable, arguments);
    default:
      return call_function(context_, callable.name, arguments);
  }
}

Value Interpreter::call_macro(const Callable& macro, const Arguments& arguments) {
  const Statement& definition = *macro.macro;
  const auto& parameters = definition.parameters;
  // Bind what is given.
  if (arguments.positional.size() > parameters.size()) {
    context_.refuse("the macro {} takes at most {} arguments, found {}", macro.name,
                    parameters.size(), arguments.positional.size());
  }
  std::vector<const Value*> given(parameters.size(), nullptr);
  for (size_t i = 0; i < arguments.positional.size(); ++i) given[i] = &arguments.positional[i];
  for (const auto& named : arguments.named) {
    const std::string& keyword = named.first;
    const auto found = std::find_if(parameters.begin(), parameters.end(),
                                    [&](const auto& row) { return row.first == keyword; });
    if (found == parameters.end()) {
      context_.refuse("the macro {} has no parameter {}", macro.name, keyword);
    }
    const Value*& place = given[static_cast<size_t>(found - parameters.begin())];
    if (place != nullptr) context_.refuse("{} is given {} twice", macro.name, keyword);
    place = &named.second;
  }
  // Set the parameters in order, so that a default may use those before it.
  const std::shared_ptr<Scope> caller = scope_;
  scope_ = context_.scope(macro.scope);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& [parameter, otherwise] = parameters[i];
    Value value = given[i] != nullptr ? *given[i]
                  : otherwise         ? evaluate(*otherwise)
                              : Value::undefined("parameter '" + parameter + "' was not provided");
    scope_->set(parameter, std::move(value));
  }
  // Run the body.
  Value text = capture(definition.bodies[0]);
  scope_ = caller;
  return text;
}

Value Interpreter::binary(const Expression& node) {
  std::vector<Value> operands;
  for (const auto& part : node.parts) operands.push_back(evaluate(*part));
  context_.line = node.line;
  const Value& left = operands[0];
  const Value& right = operands[1];
  switch (node.op) {
    case Op::add:
      return add(context_, left, right);
    case Op::subtract:
      return subtract(context_, left, right);
    case Op::multiply:
      return multiply(context_, left, right);
    case Op::divide:
      return divide(context_, left, right);
    case Op::floor_divide:
      return floor_divide(context_, left, right);
    case Op::modulo:
      return modulo(context_, left, right);
    case Op::power:
      return power(context_, left, right);
    default:
      return concatenate(context_, operands);
  }
}

bool Interpreter::holds(Comparison comparison, const Value& left, const Value& right) {
  switch (comparison) {
    case Comparison::equal:
      return equal(context_, left, right);
    case Comparison::unequal:
      return !equal(context_, left, right);
    case Comparison::less:
      return order(context_, left, right) < 0;
    case Comparison::less_equal:
      return order(context_, left, right) <= 0;
    case Comparison::greater:
      return order(context_, left, right) > 0;
    case Comparison::greater_equal:
      return order(context_, left, right) >= 0;
    case Comparison::in:
      return contains(context_, right, left);
    default:
      return !contains(context_, right, left);
  }
}

// a < b < c is a < b and b < c, with b computed once and c only if it is needed.
bool Interpreter::compare(const Expression& node) {
  Value left = evaluate(*node.parts[0]);
  for (size_t i = 0; i < node.comparisons.size(); ++i) {
    Value right = evaluate(*node.parts[i + 1]);
    context_.line = node.line;
    if (!holds(node.comparisons[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::filter(const Expression& node) {
  const Value input = node.parts[0] ? evaluate(*node.parts[0]) : filter_input_;
  const Arguments arguments = arguments_of(node);
  context_.line = node.line;
  return apply_filter(context_, node.name, input, arguments);
}

Value Interpreter::conditional(const Expression& node) {
  if (truth(evaluate(*node.parts[0]))) return evaluate(*node.parts[1]);
  if (node.parts[2]) return evaluate(*node.parts[2]);
  return Value::undefined("an inline if is false and has no else");
}

}  // namespace osp::jinja
