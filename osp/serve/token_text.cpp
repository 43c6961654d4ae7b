#include "osp/serve/token_text.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

// Bytes that a character has which begins with this byte; 0 for one that begins none.
size_t length_of_character(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  if (byte < 0x80) return 1;
  if (byte < 0xC2) return 0;
  return byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : byte < 0xF5 ? 4 : 0;
}

// Bytes at the end that begin a character without ending it.
size_t unfinished(std::string_view text) {
  for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
    const char byte = text[text.size() - n];
    if ((static_cast<unsigned char>(byte) & 0xC0) == 0x80) continue;
    return length_of_character(byte) > n ? n : 0;
  }
  return 0;
}

}  // namespace

int64_t count_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::string token_name(const Tokenizer& tokenizer, int32_t id) {
  const std::string text = tokenizer.token_text(id);
  if (tokenizer::valid_utf8_prefix(text) == text.size()) return text;
  std::string name = "bytes:";
  for (const char c : text) name += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return name;
}

int64_t TokenPlaces::place(std::string_view bytes) {
  const int64_t place = characters_;
  rest_ += bytes;
  const size_t whole = rest_.size() - unfinished(rest_);
  characters_ += count_characters(tokenizer::replace_invalid_utf8(rest_.substr(0, whole)));
  rest_.erase(0, whole);
  return place;
}

std::string shown_bytes(const Tokenizer& tokenizer, int32_t id) {
  return tokenizer.decode({&id, 1}, true).empty() ? "" : tokenizer.token_text(id);
}

}  // namespace osp
