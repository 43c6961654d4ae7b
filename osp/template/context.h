// One rendering: its limits, the line it is at, and the values that may refer to each other in
// circles. Whatever makes a value of a size that the template decides makes it here.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <fmt/format.h>

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/template/value.h"

namespace osp::jinja {

inline constexpr size_t kMaxTextBytes = 16u << 20;  // of the output and of every string
inline constexpr size_t kMaxSteps = 20'000'000;     // a step is one node, or 16 bytes of text
inline constexpr size_t kMaxItems = 1'000'000;      // of a list
inline constexpr int kMaxValueDepth = 100;          // lists in lists
inline constexpr int kMaxCallDepth = 400;           // nodes inside each other, through macros

class Context {
 public:
  Context() = default;
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int line = 1;
  int depth = 0;  // of nodes being evaluated
  std::optional<std::time_t> now;

  // Counts work. Throws Error(unsupported) once there has been more than kMaxSteps of it.
  void charge(size_t steps) {
    steps_ += steps;
    if (steps_ > kMaxSteps) too_much(fmt::format("more than {} steps", kMaxSteps));
  }
  void charge_text(size_t bytes) {
    if (bytes > kMaxTextBytes) too_much("a text of more than 16 MiB");
    charge(1 + bytes / 16);
  }

  // Error(usage): the template refuses these messages, or its operation cannot take these values.
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    throw_usage(fmt::format(format, std::forward<Args>(args)...));
  }
  // Error(unsupported): Jinja could do it.
  template <class... Args>
  [[noreturn]] void unsupported(fmt::format_string<Args...> format, Args&&... args) const {
    throw_unsupported(fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void too_much(const std::string& what) const;
  // Refuses an undefined value: using one is an error except where Jinja allows it.
  void need_defined(const Value& value) const {
    if (value.is(Kind::undefined)) throw_usage(value.what());
  }

  Value text(std::string value) {
    charge_text(value.size());
    return Value::text(std::move(value));
  }
  Value list(std::vector<Value> items, Flavor flavor = Flavor::list);
  // The entries' keys must be unequal.
  Value dict(std::vector<std::pair<Value, Value>> entries);
  Value name_space();
  std::shared_ptr<Scope> scope(std::shared_ptr<Scope> outer);
  // Keeps the names of a scope that a macro remembers until the end.
  void keep(const std::shared_ptr<Scope>& scope) { scopes_.push_back(scope); }
  Value from_json(const Json& json);

  // The items that iterating gives: of a list its values, of a text its characters, of a dict its
  // keys. Reads an iterator to its end.
  std::vector<Value> iterate(const Value& value);

 private:
  [[noreturn]] void throw_usage(const std::string& message) const;
  [[noreturn]] void throw_unsupported(const std::string& message) const;

  size_t steps_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Scope>> scopes_;
};

}  // namespace osp::jinja
