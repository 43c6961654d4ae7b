// Jinja's tests: what may follow `is`.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <string>
#include <string_view>

#include "osp/template/arguments.h"
#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

bool is_check(std::string_view name);
bool check(Context& context, const std::string& name, const Value& value,
           const Arguments& arguments);

}  // namespace osp::jinja
