// GPT-2's way of cutting text into words, without a regular expression: the pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// of the ByteLevel pre-tokenizer. Its twin is the same pattern run by PCRE2 (kGpt2Pattern).
//
// Tested by osp/tokenizer/pretokenizer_test.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {

inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// The four classes that the pattern tells apart.
enum class WordClass : uint8_t { letter, number, space, other };

WordClass word_class_beyond_ascii(char32_t code);

inline WordClass word_class(char32_t code) {
  if (code >= 0x80) return word_class_beyond_ascii(code);
  const char32_t lower = code | 0x20;
  if (lower >= 'a' && lower <= 'z') return WordClass::letter;
  if (code >= '0' && code <= '9') return WordClass::number;
  if (code == ' ' || (code >= 9 && code <= 13)) return WordClass::space;
  return WordClass::other;
}

// Length of the contraction at `p` (which points at an apostrophe), or 0.
inline size_t contraction_length(const char* p, const char* end) {
  if (end - p < 2) return 0;
  const char first = p[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (end - p < 3) return 0;
  const char second = p[2];
  const bool two = (first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
                   (first == 'l' && second == 'l');
  return two ? 3 : 0;
}

// End of the run of characters of one class that starts at `p`.
inline const char* class_run_end(const char* p, const char* end, WordClass wanted) {
  while (p < end) {
    const char* next = p;
    if (word_class(next_character(next)) != wanted) break;
    p = next;
  }
  return p;
}

// End of the word that starts at `begin` (begin < end, valid UTF-8).
inline const char* gpt2_word_end(const char* begin, const char* end) {
  if (*begin == '\'') {
    if (const size_t length = contraction_length(begin, end)) return begin + length;
  }
  const char* p = begin;
  WordClass kind = word_class(next_character(p));
  if (*begin == ' ' && p < end) {  // " ?": one space may open a word of another class
    const char* next = p;
    const WordClass after = word_class(next_character(next));
    if (after != WordClass::space) return class_run_end(next, end, after);
  }
  if (kind != WordClass::space) return class_run_end(p, end, kind);
  // White space: all of it at the end of the text, else all but its last character, unless it is
  // one character alone.
  const char* last = begin;
  while (p < end) {
    const char* next = p;
    if (word_class(next_character(next)) != WordClass::space) return last > begin ? last : p;
    last = p;
    p = next;
  }
  return p;
}

// Calls word(std::string_view) for each word of `text` in order; they cover the text.
template <class Word>
void for_each_gpt2_word(std::string_view text, Word&& word) {
  const char* p = text.data();
  const char* const end = p + text.size();
  while (p < end) {
    const char* const stop = gpt2_word_end(p, end);
    word(std::string_view(p, static_cast<size_t>(stop - p)));
    p = stop;
  }
}

}  // namespace osp::tokenizer
