#include "osp/tokenizer/gpt2_split.h"

namespace osp::tokenizer {

WordClass word_class_beyond_ascii(char32_t code) {
  if (is_letter(code)) return WordClass::letter;
  if (is_number(code)) return WordClass::number;
  if (is_space(code)) return WordClass::space;
  return WordClass::other;
}

}  // namespace osp::tokenizer
