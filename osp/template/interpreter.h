// Runs a parsed template: expressions to values, statements to text.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <memory>
#include <string>

#include "osp/template/arguments.h"
#include "osp/template/context.h"
#include "osp/template/syntax.h"

namespace osp::jinja {

class Interpreter {
 public:
  // `globals` are the variables that the caller gives; both must outlive the interpreter.
  Interpreter(Context& context, std::shared_ptr<Scope> globals)
      : context_(context), scope_(std::move(globals)) {}

  std::string run(const Body& body);

 private:
  enum class Flow { next, leave_loop, next_item };

  // Expressions (interpreter.cpp).
  Value evaluate(const Expression& node);
  Value evaluate_node(const Expression& node);
  Value name(const Expression& node);
  Value list(const Expression& node);
  Value dict(const Expression& node);
  Value slice_of(const Expression& node);
  Value call(const Expression& node);
  Value binary(const Expression& node);
  bool compare(const Expression& node);
  bool holds(Comparison comparison, const Value& left, const Value& right);
  Value filter(const Expression& node);
  Value conditional(const Expression& node);
  Arguments arguments_of(const Expression& node);
  Value call_macro(const Callable& macro, const Arguments& arguments);

  // Statements (statements.cpp).
  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow execute_branches(const Statement& statement);
  Flow execute_loop(const Statement& statement);
  bool loop_condition(const Statement& statement, const Value& item);
  void assign(const Target& target, const Value& value);
  Value capture(const Body& body);  // what it writes, in a scope of its own
  Value filtered(const Statement& statement);
  void write(const std::string& text);

  Context& context_;
  std::shared_ptr<Scope> scope_;
  std::string out_;
  Value filter_input_;  // what the filters of a block apply to
};

}  // namespace osp::jinja
