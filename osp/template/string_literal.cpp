#include "osp/template/string_literal.h"

#include <cstdint>

#include "osp/template/lexer.h"
#include "osp/tokenizer/utf8.h"

namespace osp::jinja {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Appends the character that `size` hexadecimal digits at `at` name.
void append_hex(std::string& out, std::string_view text, size_t at, size_t size, int line) {
  uint32_t code = 0;
  for (size_t i = 0; i < size; ++i) {
    const int digit = at + i < text.size() ? hex_digit(text[at + i]) : -1;
    if (digit < 0) fail_syntax(line, "a string has an escape with too few digits");
    code = code * 16 + static_cast<uint32_t>(digit);
  }
  if (code > 0x10FFFF) fail_syntax(line, "a string has an escape beyond U+10FFFF");
  if (code >= 0xD800 && code < 0xE000) fail_unsupported(line, "a string has half a surrogate pair");
  tokenizer::append_utf8(out, code);
}

// \a \b …; 0 if `c` names no character.
char simple_escape(char c) {
  switch (c) {
    case 'n':
      return '\n';
    case 't':
      return '\t';
    case 'r':
      return '\r';
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case '\\':
    case '\'':
    case '"':
      return c;
    default:
      return '\0';
  }
}

bool is_octal(char c) { return c >= '0' && c <= '7'; }

}  // namespace

std::string unescape_string(std::string_view text, int line) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 >= text.size()) {
      out += text[i];
      continue;
    }
    const char c = text[++i];
    if (const char simple = simple_escape(c)) {
      out += simple;
    } else if (c == '\n') {
      continue;  // a string over two lines
    } else if (is_octal(c)) {
      uint32_t code = 0;
      size_t digits = 0;
      while (digits < 3 && i + digits < text.size() && is_octal(text[i + digits])) {
        code = code * 8 + static_cast<uint32_t>(text[i + digits++] - '0');
      }
      tokenizer::append_utf8(out, code);
      i += digits - 1;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      const size_t size = c == 'x' ? 2 : c == 'u' ? 4 : 8;
      append_hex(out, text, i + 1, size, line);
      i += size;
    } else if (c == 'N') {
      fail_unsupported(line, "a string names a character with \\N");
    } else {
      out += '\\';
      out += c;
    }
  }
  return out;
}

}  // namespace osp::jinja
