// A small byte-level tokenizer for targets that read texts.
#pragma once

#include "osp/tokenizer/test_files.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp::fuzz {

inline Tokenizer byte_level() {
  tokenizer::SortedJson file = tokenizer::test_file(tokenizer::test_model(
      tokenizer::test_byte_alphabet(), {"\xC4\xA0 t", "h e", "\xC4\xA0t he", "a a"}));
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  file["decoder"] = {{"type", "ByteLevel"}};
  return Tokenizer::from_json(file.dump(), "byte level");
}

}  // namespace osp::fuzz
