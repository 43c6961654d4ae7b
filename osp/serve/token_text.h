// Tokens as clients see them: names, bytes, and the place of each in the text.
//
// Tested by token_text_test.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "osp/tokenizer/tokenizer.h"

namespace osp {

// Number of characters (code points) of valid UTF-8.
int64_t count_characters(std::string_view text);

// The token's text; bytes that are no characters as "bytes:\xe2\x80".
std::string token_name(const Tokenizer& tokenizer, int32_t id);

// The place, in characters, at which each token of a text begins. A token that begins in the middle
// of a character has the place of that character.
class TokenPlaces {
 public:
  // `from`: characters before the first token.
  explicit TokenPlaces(int64_t from = 0) : characters_(from) {}
  // The place of a token with these bytes, "" for one that is not shown.
  int64_t place(std::string_view bytes);

 private:
  int64_t characters_;  // whole ones so far
  std::string rest_;    // bytes of the one that is not whole
};

// The bytes that a token shows; none for special tokens.
std::string shown_bytes(const Tokenizer& tokenizer, int32_t id);

}  // namespace osp
