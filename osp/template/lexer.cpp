#include "osp/template/lexer.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/template/string_literal.h"
#include "osp/template/text.h"

namespace osp::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_octal_digit(char c) { return c >= '0' && c <= '7'; }
bool is_binary_digit(char c) { return c == '0' || c == '1'; }

// \r\n and \r as \n, and without one line end at the end of the text.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
      continue;
    }
    out += '\n';
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) read_outside();
    add(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool follows(std::string_view text) const { return rest().starts_with(text); }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0';
  }

  int line_here() {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(counted_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at_), '\n'));
    counted_ = at_;
    return line_;
  }
  void add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_here()});
  }
  [[noreturn]] void damaged(const std::string& message) { fail_syntax(line_here(), message); }

  void skip_space() { at_ += leading_space(rest()); }

  // The text before a tag, without the white space that its sign or lstrip_blocks takes away.
  void add_text(size_t begin, size_t end, char sign, bool may_lstrip) {
    std::string_view text = std::string_view(source_).substr(begin, end - begin);
    if (sign == '-') {
      text.remove_suffix(trailing_space(text));
    } else if (sign != '+' && may_lstrip) {
      const size_t newline = text.rfind('\n');
      const size_t line_start = newline == text.npos ? 0 : newline + 1;
      const bool at_line_start = line_start > 0 || begin == 0 || source_[begin - 1] == '\n';
      const std::string_view tail = text.substr(line_start);
      if (at_line_start && leading_space(tail) == tail.size()) text = text.substr(0, line_start);
    }
    if (!text.empty()) add(Token::Kind::text, std::string(text));
  }

  // After the end of a tag: the marker - takes all white space, trim_blocks a line end.
  void trim_after(char sign, bool trims) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && trims && peek() == '\n') {
      ++at_;
    }
  }

  char read_sign() {
    const char sign = peek();
    if (sign != '-' && sign != '+') return '\0';
    ++at_;
    return sign;
  }

  void read_outside() {
    const size_t begin = at_;
    // Find the next tag.
    size_t tag = begin;
    for (;; ++tag) {
      tag = source_.find('{', tag);
      if (tag == source_.npos || tag + 1 >= source_.size()) {
        at_ = source_.size();
        add(Token::Kind::text, source_.substr(begin));
        return;
      }
      const char kind = source_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
    }
    at_ = tag + 2;
    const char kind = source_[tag + 1];
    const char sign = read_sign();
    add_text(begin, tag, sign, kind != '{');
    if (kind == '#') {
      skip_comment();
    } else if (kind == '%' && read_raw_begin()) {
      read_raw();
    } else {
      read_tag(kind == '%');
    }
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == source_.npos) damaged("a comment has no end #}");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    trim_after(sign, true);
  }

  // {% raw %} needs a look ahead: its content is no template.
  bool read_raw_begin() {
    const size_t begin = at_;
    skip_space();
    if (follows("raw")) {
      at_ += 3;
      skip_space();
      if (follows("-%}")) {
        at_ += 3;
        skip_space();
        return true;
      }
      if (follows("%}")) {
        at_ += 2;
        return true;
      }
    }
    at_ = begin;
    return false;
  }

  void read_raw() {
    const size_t begin = at_;
    for (;;) {
      const size_t tag = source_.find("{%", at_);
      if (tag == source_.npos) damaged("{% raw %} has no end");
      at_ = tag + 2;
      const char sign = read_sign();
      skip_space();
      if (!follows("endraw")) {
        at_ = tag + 2;
        continue;
      }
      at_ += 6;
      skip_space();
      const char end_sign = follows("%}") ? '\0' : read_sign();
      if (!follows("%}")) {
        at_ = tag + 2;
        continue;
      }
      at_ += 2;
      add_text(begin, tag, sign, true);
      trim_after(end_sign, true);
      return;
    }
  }

  bool read_tag_end(bool block) {
    const std::string_view end = block ? "%}" : "}}";
    char sign = '\0';
    if (!follows(end)) {
      const bool minus = peek() == '-' || (block && peek() == '+');
      if (!minus || !rest().substr(1).starts_with(end)) return false;
      sign = read_sign();
    }
    add(block ? Token::Kind::block_end : Token::Kind::variable_end, "");
    at_ += 2;
    trim_after(sign, block);
    return true;
  }

  void read_tag(bool block) {
    add(block ? Token::Kind::block_begin : Token::Kind::variable_begin, "");
    std::string open;  // brackets
    for (;;) {
      if (open.empty() && read_tag_end(block)) return;
      if (at_ >= source_.size()) damaged("a tag has no end");
      const size_t space = leading_space(rest());
      if (space > 0) {
        at_ += space;
      } else if (is_digit(peek())) {
        read_number();
      } else if (is_name_start(peek())) {
        size_t end = at_;
        while (end < source_.size() && (is_name_start(source_[end]) || is_digit(source_[end])))
          ++end;
        const std::string name = source_.substr(at_, end - at_);
        if (end < source_.size() && static_cast<unsigned char>(source_[end]) >= 0x80 &&
            leading_space(std::string_view(source_).substr(end)) == 0) {
          fail_unsupported(line_here(), "uses a name that is not ASCII");
        }
        add(Token::Kind::name, name);
        at_ = end;
      } else if (peek() == '\'' || peek() == '"') {
        read_string();
      } else {
        read_symbol(open);
      }
    }
  }

  // Digits with single underscores between them; the position behind, or `from` if there are none.
  size_t digits_end(size_t from, bool (*accepts)(char), bool underscore_first = false) const {
    size_t end = from;
    while (end < source_.size()) {
      const bool underscore = source_[end] == '_' && (end > from || underscore_first);
      const size_t digit = underscore ? end + 1 : end;
      if (digit >= source_.size() || !accepts(source_[digit])) break;
      end = digit + 1;
    }
    return end;
  }

  void read_number() {
    const size_t begin = at_;
    if (peek() == '0' && read_prefixed_number()) return;
    size_t end = digits_end(begin, is_digit);
    bool real = false;
    if (begin == 0 || source_[begin - 1] != '.') {
      if (end < source_.size() && source_[end] == '.') {
        const size_t fraction = digits_end(end + 1, is_digit);
        if (fraction > end + 1) {
          end = fraction;
          real = true;
        }
      }
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        size_t exponent = end + 1;
        if (exponent < source_.size() && (source_[exponent] == '-' || source_[exponent] == '+')) {
          ++exponent;
        }
        const size_t exponent_end = digits_end(exponent, is_digit);
        if (exponent_end > exponent) {
          end = exponent_end;
          real = true;
        }
      }
    }
    std::string digits = source_.substr(begin, end - begin);
    std::erase(digits, '_');
    const bool zeros = digits.find_first_not_of('0') == digits.npos;
    if (!real && digits.size() > 1 && digits[0] == '0' && !zeros) damaged("a number begins with 0");
    add(real ? Token::Kind::real : Token::Kind::integer, digits);
    at_ = end;
  }

  // 0x1F, 0o17, 0b11
  bool read_prefixed_number() {
    const char base = static_cast<char>(peek(1) | 0x20);
    if (base != 'x' && base != 'o' && base != 'b') return false;
    const auto accepts = base == 'x' ? is_hex : base == 'o' ? is_octal_digit : is_binary_digit;
    const size_t end = digits_end(at_ + 2, accepts, true);
    if (end == at_ + 2) return false;
    std::string digits = source_.substr(at_, end - at_);
    std::erase(digits, '_');
    digits[1] = base;
    add(Token::Kind::integer, digits);
    at_ = end;
    return true;
  }

  void read_string() {
    const char quote = peek();
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) damaged("a string has no end");
    add(Token::Kind::string,
        unescape_string(std::string_view(source_).substr(at_ + 1, end - at_ - 1), line_here()));
    at_ = end + 1;
  }

  void read_symbol(std::string& open) {
    for (const std::string_view two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (!follows(two)) continue;
      add(Token::Kind::symbol, std::string(two));
      at_ += 2;
      return;
    }
    const char c = peek();
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      damaged("unexpected character " + printable(rest().substr(0, character_size(c))));
    }
    if (c == '(' || c == '[' || c == '{') open += c;
    if (c == ')' || c == ']' || c == '}') {
      const char opened = c == ')' ? '(' : static_cast<char>(c - 2);
      if (!open.ends_with(opened)) damaged(std::string("unexpected ") + c);
      open.pop_back();
    }
    add(Token::Kind::symbol, std::string(1, c));
    ++at_;
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  size_t counted_ = 0;  // bytes whose line ends are in line_
  std::vector<Token> tokens_;
};

}  // namespace

void fail_syntax(int line, const std::string& message) {
  fail(ErrorCode::damaged, "chat template, line {}: {}", line, message);
}

void fail_unsupported(int line, const std::string& message) {
  fail(ErrorCode::unsupported, "chat template, line {}: {}", line, message);
}

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(normalize_newlines(source)).run();
}

}  // namespace osp::jinja
