// The arguments of a call, and their names.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

// Arguments by parameter. Refuses too many of them, unknown names, and an argument given twice.
class Bound {
 public:
  Bound(Context& context, std::string_view callee, const Arguments& arguments,
        std::initializer_list<std::string_view> parameters, size_t required = 0);

  bool has(size_t index) const { return given_[index]; }
  const Value& operator[](size_t index) const { return values_[index]; }
  Value get(size_t index, Value otherwise) const {
    return given_[index] ? values_[index] : std::move(otherwise);
  }
  bool flag(size_t index, bool otherwise) const {
    return given_[index] ? truth(values_[index]) : otherwise;
  }
  int64_t integer(size_t index, int64_t otherwise) const;
  const std::string& text(size_t index) const;
  bool has_value(size_t index) const { return given_[index] && !values_[index].is(Kind::none); }

 private:
  Context& context_;
  std::string callee_;
  std::vector<Value> values_;
  std::vector<bool> given_;
};

}  // namespace osp::jinja
