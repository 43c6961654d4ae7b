// Jinja's filters: value | name(arguments).
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <string>
#include <string_view>

#include "osp/template/arguments.h"
#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

bool is_filter(std::string_view name);
Value apply_filter(Context& context, const std::string& name, const Value& value,
                   const Arguments& arguments);

using Filter = Value (*)(Context&, const Value&, const Arguments&);

struct FilterRow {
  std::string_view name;
  Filter apply;
};

// The two tables that a name is looked up in; null where there is none.
Filter find_text_filter(std::string_view name);      // of texts and numbers
Filter find_sequence_filter(std::string_view name);  // of lists and dicts

}  // namespace osp::jinja
