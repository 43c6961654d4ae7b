#include "osp/template/text.h"

#include <utf8proc.h>

#include <algorithm>

#include "osp/tokenizer/utf8.h"

namespace osp::jinja {
namespace {

using tokenizer::append_utf8;
using tokenizer::last_character;
using tokenizer::next_character;

utf8proc_int32_t code_of(char32_t code) { return static_cast<utf8proc_int32_t>(code); }
utf8proc_category_t category_of_code(char32_t code) { return utf8proc_category(code_of(code)); }

bool is_cased(char32_t code) {
  const auto category = category_of_code(code);
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

// Characters that a word's case does not depend on: marks, format characters, apostrophes.
bool is_case_ignorable(char32_t code) {
  const auto category = category_of_code(code);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
         category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
         category == UTF8PROC_CATEGORY_SK || code == '\'' || code == '.' || code == ':' ||
         code == 0xB7 || code == 0x2018 || code == 0x2019;
}

// The characters of a full case folding; empty if it is a single character. Small letters that
// have no capital of their own (ß, ﬁ, ŉ) become the capitals of their folding.
std::vector<char32_t> long_folding(char32_t code) {
  utf8proc_int32_t folded[8];
  int boundary = 0;
  const utf8proc_ssize_t size =
      utf8proc_decompose_char(code_of(code), folded, 8, UTF8PROC_CASEFOLD, &boundary);
  if (size < 2 || size > 8) return {};
  return {folded, folded + size};
}

void append_upper(std::string& out, char32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code >= 'a' && code <= 'z' ? code - 32 : code));
    return;
  }
  const auto category = category_of_code(code);
  if (category == UTF8PROC_CATEGORY_LL || category == UTF8PROC_CATEGORY_LT) {
    const std::vector<char32_t> folding = long_folding(code);
    if (!folding.empty()) {
      for (const char32_t part : folding) {
        append_utf8(out, static_cast<char32_t>(utf8proc_toupper(code_of(part))));
      }
      return;
    }
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_toupper(code_of(code))));
}

void append_title(std::string& out, char32_t code) {
  const auto title = static_cast<char32_t>(utf8proc_totitle(code_of(code)));
  const std::vector<char32_t> folding = code < 0x80 ? std::vector<char32_t>{} : long_folding(code);
  const auto category = category_of_code(code);
  // utf8proc has the capital ẞ for ß, Unicode Ss.
  if ((title != code && code != 0xDF) || folding.empty() || category != UTF8PROC_CATEGORY_LL) {
    append_utf8(out, title);
    return;
  }
  for (size_t i = 0; i < folding.size(); ++i) {
    append_utf8(out,
                i == 0 ? static_cast<char32_t>(utf8proc_totitle(code_of(folding[i]))) : folding[i]);
  }
}

// Σ at the end of a word becomes ς.
bool is_final_sigma(std::string_view before, std::string_view after) {
  while (!before.empty() && is_case_ignorable(last_character(before))) {
    std::string one;
    append_utf8(one, last_character(before));
    before.remove_suffix(one.size());
  }
  if (before.empty() || !is_cased(last_character(before))) return false;
  const char* at = after.data();
  while (at < after.data() + after.size()) {
    const char32_t code = next_character(at);
    if (!is_case_ignorable(code)) return !is_cased(code);
  }
  return true;
}

// Appends the small form of the character at byte `at` of `text`.
void append_lower(std::string& out, std::string_view text, size_t at, char32_t code) {
  if (code < 0x80) {
    out.push_back(static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code));
  } else if (code == 0x130) {
    out += "i\xCC\x87";  // İ is i and a dot
  } else if (code == 0x3A3) {
    append_utf8(out, is_final_sigma(text.substr(0, at), text.substr(at + 2)) ? 0x3C2 : 0x3C3);
  } else {
    append_utf8(out, static_cast<char32_t>(utf8proc_tolower(code_of(code))));
  }
}

// Calls use(code, byte) for every character.
template <class Use>
void for_characters(std::string_view text, Use use) {
  const char* at = text.data();
  while (at < text.data() + text.size()) {
    const auto byte = static_cast<size_t>(at - text.data());
    use(next_character(at), byte);
  }
}

}  // namespace

size_t num_characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

size_t byte_of_character_index(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += character_size(text[at]);
  return std::min(at, text.size());
}

bool is_python_space(char32_t code) {
  return tokenizer::is_space(code) || (code >= 0x1C && code <= 0x1F);
}

size_t leading_space(std::string_view text) {
  const char* at = text.data();
  while (at < text.data() + text.size()) {
    const char* const begin = at;
    if (!is_python_space(next_character(at))) return static_cast<size_t>(begin - text.data());
  }
  return text.size();
}

size_t trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    const char* at = text.data() + begin;
    if (!is_python_space(next_character(at))) break;
    end = begin;
  }
  return text.size() - end;
}

std::string_view strip(std::string_view text, const std::optional<std::string>& characters,
                       Sides sides) {
  if (!characters) {
    if (sides.left) text.remove_prefix(leading_space(text));
    if (sides.right) text.remove_suffix(trailing_space(text));
    return text;
  }
  const auto listed = [&](std::string_view one) {
    return characters->find(one) != std::string::npos;
  };
  while (sides.left && !text.empty()) {
    const size_t size = character_size(text[0]);
    if (!listed(text.substr(0, size))) break;
    text.remove_prefix(size);
  }
  while (sides.right && !text.empty()) {
    size_t begin = text.size() - 1;
    while ((static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!listed(text.substr(begin))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

std::string upper(std::string_view text) {
  std::string out;
  for_characters(text, [&](char32_t code, size_t) { append_upper(out, code); });
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for_characters(text, [&](char32_t code, size_t at) { append_lower(out, text, at, code); });
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for_characters(text, [&](char32_t code, size_t at) {
    if (at == 0) {
      append_title(out, code);
    } else {
      append_lower(out, text, at, code);
    }
  });
  return out;
}

std::string python_title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for_characters(text, [&](char32_t code, size_t at) {
    if (in_word) {
      append_lower(out, text, at, code);
    } else {
      append_title(out, code);
    }
    in_word = is_cased(code);
  });
  return out;
}

std::string jinja_title(std::string_view text) {
  std::string out;
  size_t word = 0;  // where the present word or gap begins
  bool in_gap = true;
  const auto finish = [&](size_t end) {
    if (end == word) return;
    const std::string_view part = text.substr(word, end - word);
    const size_t first = character_size(part[0]);
    out += upper(part.substr(0, first));
    out += lower(part.substr(first));
    word = end;
  };
  for_characters(text, [&](char32_t code, size_t at) {
    const bool gap = is_python_space(code) || code == '-' || code == '(' || code == '{' ||
                     code == '[' || code == '<';
    if (gap != in_gap) finish(at);
    in_gap = gap;
  });
  finish(text.size());
  return out;
}

bool is_printable(char32_t code) {
  if (code == ' ') return true;
  switch (category_of_code(code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

}  // namespace osp::jinja
