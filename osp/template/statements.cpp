// The statements of templates.
#include <algorithm>

#include "osp/template/interpreter.h"
#include "osp/template/operators.h"
#include "osp/template/print.h"

namespace osp::jinja {

std::string Interpreter::run(const Body& body) {
  execute(body);
  return std::move(out_);
}

void Interpreter::write(const std::string& text) {
  context_.charge(1 + text.size() / 16);
  out_ += text;
  if (out_.size() > kMaxTextBytes) context_.charge_text(out_.size());
}

Interpreter::Flow Interpreter::execute(const Body& body) {
  for (const auto& statement : body) {
    const Flow flow = execute(*statement);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  context_.charge(1);
  context_.line = statement.line;
  switch (statement.kind) {
    case Statement::Kind::text:
      write(statement.text);
      break;
    case Statement::Kind::output:
      write(to_text(context_, evaluate(*statement.value)));
      break;
    case Statement::Kind::branches:
      return execute_branches(statement);
    case Statement::Kind::loop:
      return execute_loop(statement);
    case Statement::Kind::set:
      assign(statement.target, evaluate(*statement.value));
      break;
    case Statement::Kind::set_block:
      assign(statement.target, filtered(statement));
      break;
    case Statement::Kind::filter: {
      const Value text = filtered(statement);
      if (!text.is(Kind::text)) context_.refuse("the filters of a block give no text");
      write(text.as_text());
      break;
    }
    case Statement::Kind::generation:
      write(to_text(context_, capture(statement.bodies[0])));
      break;
    case Statement::Kind::macro: {
      auto macro = std::make_shared<Callable>();
      macro->what = Callable::What::macro;
      macro->name = statement.text;
      macro->macro = &statement;
      macro->scope = scope_;
      context_.keep(scope_);
      scope_->set(statement.text, Value(std::shared_ptr<const Callable>(std::move(macro))));
      break;
    }
    case Statement::Kind::loop_break:
      return Flow::leave_loop;
    case Statement::Kind::loop_continue:
      return Flow::next_item;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::execute_branches(const Statement& statement) {
  for (size_t i = 0; i < statement.conditions.size(); ++i) {
    const bool chosen = !statement.conditions[i] || truth(evaluate(*statement.conditions[i]));
    if (chosen) return execute(statement.bodies[i]);
  }
  return Flow::next;
}

// True if an item passes the condition of its loop, which sees the item's names and no `loop`.
bool Interpreter::loop_condition(const Statement& statement, const Value& item) {
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = context_.scope(outer);
  assign(statement.target, item);
  const bool passes = truth(evaluate(*statement.conditions[0]));
  scope_ = outer;
  return passes;
}

Interpreter::Flow Interpreter::execute_loop(const Statement& statement) {
  context_.charge(10);  // a loop costs more than a node, even of no items
  const auto loop = std::make_shared<Loop>();
  const std::shared_ptr<Scope> outer = scope_;
  const Value iterated = evaluate(*statement.value);
  context_.line = statement.line;
  loop->source = context_.iterate(iterated);
  if (statement.conditions.empty()) {
    loop->passed = std::move(loop->source);
    loop->source.clear();
  } else {
    loop->condition = [this, &statement, outer](const Value& each) {
      const std::shared_ptr<Scope> inner = std::exchange(scope_, outer);
      const bool passes = loop_condition(statement, each);
      scope_ = inner;
      return passes;
    };
  }
  // Each item gets a scope of its own: what it sets is gone at the next.
  // The else branch runs unless an item came to the end of the body: after break too, as in Jinja.
  bool finished = false;
  for (loop->index = 0; loop->index < loop->passed.size() || loop->pull(); ++loop->index) {
    context_.charge(10);  // a scope and its names cost more than a node
    scope_ = context_.scope(outer);
    const Value each = loop->passed[loop->index];
    assign(statement.target, each);
    scope_->set("loop", Value(loop));
    const Flow flow = execute(statement.bodies[0]);
    if (flow == Flow::leave_loop) break;
    finished = finished || flow == Flow::next;
  }
  loop->condition = nullptr;
  if (!finished && statement.bodies.size() > 1) {
    scope_ = context_.scope(outer);
    const Flow flow = execute(statement.bodies[1]);
    scope_ = outer;
    return flow;
  }
  scope_ = outer;
  return Flow::next;
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    const std::vector<Value> items = context_.iterate(value);
    if (value.is(Kind::undefined)) context_.need_defined(value);
    if (items.size() != target.items.size()) {
      context_.refuse("{} values cannot be assigned to {} names", items.size(),
                      target.items.size());
    }
    for (size_t i = 0; i < items.size(); ++i) assign(target.items[i], items[i]);
    return;
  }
  if (target.attribute.empty()) {
    context_.charge(1 + scope_->names.size() / 16);
    scope_->set(target.name, value);
    return;
  }
  const Value* const space = scope_->find(target.name);
  if (space == nullptr || !space->is(Kind::name_space)) {
    context_.refuse("{} is no namespace, so {}.{} cannot be set", target.name, target.name,
                    target.attribute);
  }
  if (target.attribute.starts_with('_')) {
    context_.refuse("a namespace cannot hold {}, which begins with _", target.attribute);
  }
  context_.charge(1 + space->as_namespace().attributes.size() / 16);
  space->as_namespace().set(target.attribute, value);
}

Value Interpreter::capture(const Body& body) {
  if (context_.depth >= kMaxCallDepth) context_.too_much("too many macros inside each other");
  ++context_.depth;
  std::string written = std::exchange(out_, std::string());
  const std::shared_ptr<Scope> outer = scope_;
  scope_ = context_.scope(outer);
  execute(body);
  scope_ = outer;
  out_.swap(written);
  --context_.depth;
  return context_.text(std::move(written));
}

Value Interpreter::filtered(const Statement& statement) {
  Value text = capture(statement.bodies[0]);
  if (!statement.value) return text;
  const Value outer = std::exchange(filter_input_, std::move(text));
  Value result = evaluate(*statement.value);
  filter_input_ = outer;
  return result;
}

}  // namespace osp::jinja
