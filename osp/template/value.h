// Values of chat templates: what Python would hold, as far as templates need it. Values are shared
// and unchangeable, except namespaces, loops and the position of an iterator.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "osp/base/json.h"

namespace osp::jinja {

struct List;
struct Dict;
struct Namespace;
struct Loop;
struct Callable;

// A name, member or element that is not there; `what` says which, for the message of its use.
struct Undefined {
  std::shared_ptr<const std::string> what;
};

enum class Kind {
  undefined,
  none,
  boolean,
  integer,
  real,
  text,
  list,
  dict,
  name_space,
  loop,
  callable,
};

class Value {
 public:
  Value() = default;  // undefined
  static Value none() { return Value(std::monostate{}); }
  static Value boolean(bool value) { return Value(value); }
  static Value integer(int64_t value) { return Value(value); }
  static Value real(double value) { return Value(value); }
  static Value text(std::string value);
  static Value undefined(std::string what);
  // This text, marked as HTML that needs no escaping (Python's Markup): + escapes what
  // it is added to.
  Value as_markup() const;
  explicit Value(std::shared_ptr<List> list) : data_(std::move(list)) {}
  explicit Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  explicit Value(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}
  explicit Value(std::shared_ptr<Loop> loop) : data_(std::move(loop)) {}
  explicit Value(std::shared_ptr<const Callable> callable) : data_(std::move(callable)) {}

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool is(Kind kind_of) const { return kind() == kind_of; }
  bool is_integral() const { return is(Kind::boolean) || is(Kind::integer); }
  bool is_number() const { return is_integral() || is(Kind::real); }
  bool is_markup() const { return markup_; }

  // Access to what `kind` says that there is.
  bool as_boolean() const { return std::get<bool>(data_); }
  int64_t as_integer() const;  // of booleans too
  double as_real() const;      // of any number
  const std::string& as_text() const { return *std::get<TextPointer>(data_); }
  List& as_list() const { return *std::get<std::shared_ptr<List>>(data_); }
  const Dict& as_dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  Namespace& as_namespace() const { return *std::get<std::shared_ptr<Namespace>>(data_); }
  Loop& as_loop() const { return *std::get<std::shared_ptr<Loop>>(data_); }
  const Callable& as_callable() const { return *std::get<std::shared_ptr<const Callable>>(data_); }
  // Why an undefined value is one: "'x' is undefined".
  std::string what() const;
  // The address of what is shared, for identity.
  const void* address() const;

 private:
  using TextPointer = std::shared_ptr<const std::string>;
  // In the order of Kind.
  using Data =
      std::variant<Undefined, std::monostate, bool, int64_t, double, TextPointer,
                   std::shared_ptr<List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
                   std::shared_ptr<Loop>, std::shared_ptr<const Callable>>;
  explicit Value(Data data) : data_(std::move(data)) {}
  explicit Value(std::monostate value) : data_(value) {}
  explicit Value(bool value) : data_(value) {}
  explicit Value(int64_t value) : data_(value) {}
  explicit Value(double value) : data_(value) {}

  Data data_;
  bool markup_ = false;  // of a text
};

// The kind of sequence that Python would have made of a row of values.
enum class Flavor {
  list,
  tuple,
  range,
  view,      // of a dict's keys, values or items: has a length, no elements by number
  iterator,  // of filters that compute as they go: no length, read once, always true
};

struct List {
  std::vector<Value> items;
  Flavor flavor = Flavor::list;
  int depth = 1;      // levels of lists and dicts
  bool used = false;  // an iterator that has been read
};

// Entries in the order of their insertion, keys unequal.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  int depth = 1;

  const Value* find(std::string_view key) const;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;

  const Value* find(std::string_view name) const;
  void set(const std::string& name, Value value);
};

// A running loop. With a condition the items that pass are found one by one, as the loop
// needs them.
struct Loop {
  std::vector<Value> source;
  size_t next = 0;            // of the source
  std::vector<Value> passed;  // items of the loop, as far as they are known
  size_t index = 0;
  std::function<bool(const Value&)> condition;  // empty: every item passes

  bool pull();  // finds one more item; false at the end
};

struct Scope;
struct Statement;

struct Callable {
  enum class What { function, method, macro };
  What what;
  std::string name;
  Value self;                        // of a method
  const Statement* macro = nullptr;  // lives as long as the template
  std::shared_ptr<Scope> scope;      // where the macro was defined
};

// Names of a block, inside those of the block around it.
struct Scope {
  std::vector<std::pair<std::string, Value>> names;
  std::shared_ptr<Scope> outer;

  const Value* find(std::string_view name) const;
  void set(const std::string& name, Value value);
};

// Python's bool().
bool truth(const Value& value);
// Python's name of the type: 'str', 'int', 'list', …
std::string_view type_name(const Value& value);

}  // namespace osp::jinja
