// The text of a chat template as tokens, with the white space removed that Jinja removes under
// trim_blocks and lstrip_blocks and beside the markers `-`.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace osp::jinja {

struct Token {
  enum class Kind {
    text,            // outside of tags
    variable_begin,  // {{
    variable_end,
    block_begin,  // {%
    block_end,
    name,
    string,   // its characters, escapes resolved
    integer,  // digits as they are written, without _
    real,
    symbol,  // an operator or a bracket
    end,
  };
  Kind kind = Kind::end;
  std::string text;
  int line = 1;
};

// Throws Error(damaged) that names the line where the text is not a template.
std::vector<Token> tokenize(std::string_view source);

// Error(damaged) and Error(unsupported) while a template is read.
[[noreturn]] void fail_syntax(int line, const std::string& message);
[[noreturn]] void fail_unsupported(int line, const std::string& message);

}  // namespace osp::jinja
