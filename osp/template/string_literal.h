// Escapes in the string literals of templates.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <string>
#include <string_view>

namespace osp::jinja {

// The characters between the quotes as Python's "unicode-escape" decodes them. Throws
// Error(damaged) for a cut escape and Error(unsupported) for \N{…} and surrogates.
std::string unescape_string(std::string_view text, int line);

}  // namespace osp::jinja
