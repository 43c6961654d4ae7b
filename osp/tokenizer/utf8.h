// Characters for the tokenizer: reading UTF-8, replacing bytes that are not UTF-8, the character
// classes of pre-tokenizers, and the byte-level alphabet (one printable character per byte).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace osp::tokenizer {

// Reads the character at `p`, which must be valid UTF-8, and moves `p` behind it.
inline char32_t next_character(const char*& p) {
  const auto byte = [](char c) { return static_cast<uint32_t>(static_cast<unsigned char>(c)); };
  const uint32_t lead = byte(*p++);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1F) << 6 | (byte(*p++) & 0x3F);
  if (lead < 0xF0) {
    const uint32_t high = (lead & 0x0F) << 12 | (byte(p[0]) & 0x3F) << 6 | (byte(p[1]) & 0x3F);
    p += 2;
    return high;
  }
  const uint32_t code = (lead & 0x07) << 18 | (byte(p[0]) & 0x3F) << 12 | (byte(p[1]) & 0x3F) << 6 |
                        (byte(p[2]) & 0x3F);
  p += 3;
  return code;
}

// The character that ends just before `end` (valid UTF-8, at least one character).
char32_t last_character(std::string_view text);

void append_utf8(std::string& out, char32_t code);

// Number of bytes at the start of `text` that are valid UTF-8.
size_t valid_utf8_prefix(std::string_view text);

// `text` with each maximal ill-formed subpart replaced by one U+FFFD: the practice that the Unicode
// standard recommends (chapter 3, "U+FFFD Substitution of Maximal Subparts"), and what Python's
// bytes.decode("utf-8", errors="replace") does.
std::string replace_invalid_utf8(std::string_view text);

bool is_letter(char32_t code);  // general category L*
bool is_number(char32_t code);  // general category N*
bool is_space(char32_t code);   // property White_Space
bool is_word(char32_t code);    // \w of UTS 18: alphabetic, marks, digits, connectors, joiners

// The byte-level alphabet: bytes that print stand for themselves (33–126, 161–172, 174–255), the
// other 68 for U+0100, U+0101, … in order.
char32_t byte_character(uint8_t byte);
int byte_of_character(char32_t code);  // -1 if it stands for no byte
// Every byte of `text` written as its character.
std::string to_byte_alphabet(std::string_view text);
// The inverse, appended to `out`; false (and `out` unchanged) if a character stands for no byte.
bool append_from_byte_alphabet(std::string_view text, std::string& out);

}  // namespace osp::tokenizer
