// Reads a chat template: tokens to statements and expressions, with Jinja's grammar.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <string_view>

#include "osp/template/syntax.h"

namespace osp::jinja {

// Throws Error(damaged) for what Jinja could not read either, and Error(unsupported) that names
// an unknown statement, filter or test; both name the line.
Body parse_template(std::string_view source);

}  // namespace osp::jinja
