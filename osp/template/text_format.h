// Python's str.format, as far as templates need it.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <string>

#include "osp/template/arguments.h"
#include "osp/template/context.h"

namespace osp::jinja {

// Replaces {}, {0} and {name} by the arguments; {{ and }} stand for braces. Error(unsupported) for
// members of arguments, conversions and widths: {0.x}, {!r}, {:>8}.
std::string format_text(Context& context, const std::string& format, const Arguments& arguments);

}  // namespace osp::jinja
