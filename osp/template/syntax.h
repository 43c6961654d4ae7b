// A parsed chat template.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "osp/template/value.h"

namespace osp::jinja {

enum class Op {
  constant,
  name,
  list,
  tuple,
  dict,       // parts: key, value, key, value, …
  attribute,  // part 0 . name
  item,       // part 0 [ part 1 ]
  slice,      // part 0 [ part 1 : part 2 : part 3 ], the bounds may be absent
  call,       // part 0 ( the other parts, keywords )
  filter,     // part 0 | name( the other parts, keywords )
  test,       // part 0 is name( the other parts, keywords )
  negate,
  positive,
  logical_not,
  logical_and,
  logical_or,
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concatenate,
  compare,      // part 0, comparisons[0], part 1, comparisons[1], part 2, …
  conditional,  // part 1 if part 0 else part 2, which may be absent
};

enum class Comparison { equal, unequal, less, less_equal, greater, greater_equal, in, not_in };

struct Expression;
using ExpressionPointer = std::unique_ptr<Expression>;

struct Expression {
  Op op = Op::constant;
  int line = 1;
  int depth = 1;  // levels of nodes
  Value constant;
  std::string name;
  std::vector<ExpressionPointer> parts;
  std::vector<std::pair<std::string, ExpressionPointer>> keywords;
  std::vector<Comparison> comparisons;
};

// The target of an assignment: a name, an attribute of a namespace, or several of them.
struct Target {
  std::string name;
  std::string attribute;  // empty: the name itself
  std::vector<Target> items;
  bool is_tuple = false;
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Statement {
  enum class Kind {
    text,        // text
    output,      // value
    branches,    // the first body whose condition holds (a null condition always does)
    loop,        // for target in value if condition: bodies[0], else bodies[1]
    set,         // target = value
    set_block,   // target = bodies[0], through `value`'s filters if there are any
    filter,      // bodies[0] through the filters of `value`
    macro,       // text: its name
    generation,  // bodies[0] in a scope of its own
    loop_break,
    loop_continue,
  };
  Kind kind = Kind::text;
  int line = 1;
  std::string text;
  ExpressionPointer value;
  std::vector<ExpressionPointer> conditions;
  std::vector<Body> bodies;
  Target target;
  std::vector<std::pair<std::string, ExpressionPointer>> parameters;  // of a macro, with defaults
};

}  // namespace osp::jinja
