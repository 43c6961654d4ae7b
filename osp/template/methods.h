// Methods of strings, lists and dicts, and the functions that every template can call.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <string>
#include <string_view>

#include "osp/template/arguments.h"
#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

// True if Python's type has a method of this name, supported here or not.
bool has_method(const Value& value, std::string_view name);
// Calls it; Error(unsupported) names a method that osp does not have or that would change
// the value.
Value call_method(Context& context, const Value& self, const std::string& name,
                  const Arguments& arguments);

// text.replace(from, to, most) within the limits on size and steps.
std::string limited_replace(Context& context, const std::string& text, const std::string& from,
                            const std::string& to, int64_t most);

// range, namespace, dict, raise_exception, strftime_now.
bool is_function(std::string_view name);
Value call_function(Context& context, const std::string& name, const Arguments& arguments);

}  // namespace osp::jinja
