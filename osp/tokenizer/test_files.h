// Small tokenizer.json texts for the tokenizer's tests and benches.
#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "osp/tokenizer/json.h"
#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {

// A BPE model in which every token of `tokens` and every result of `merges` has an id, in order.
inline SortedJson test_model(const std::vector<std::string>& tokens,
                             const std::vector<std::string>& merges) {
  SortedJson vocabulary = SortedJson::object();
  const auto add = [&](const std::string& token) {
    if (!vocabulary.contains(token)) vocabulary[token] = vocabulary.size();
  };
  for (const std::string& token : tokens) add(token);
  for (std::string merge : merges) {
    merge.erase(merge.find(' '), 1);
    add(merge);
  }
  return {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}};
}

// All 256 characters of the byte-level alphabet, so that token i is byte i.
inline std::vector<std::string> test_byte_alphabet() {
  std::vector<std::string> alphabet(256);
  for (int byte = 0; byte < 256; ++byte) {
    append_utf8(alphabet[byte], byte_character(static_cast<uint8_t>(byte)));
  }
  return alphabet;
}

// A file with this model and no other parts; tests add them.
inline SortedJson test_file(const SortedJson& model) {
  return {{"added_tokens", SortedJson::array()}, {"model", model}};
}

}  // namespace osp::tokenizer
