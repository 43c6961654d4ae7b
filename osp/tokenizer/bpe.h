// The BPE model of a tokenizer.json: vocabulary, merges, and the merging of one word.
//
// A word starts as one symbol per character (per byte in byte mode); then the adjacent pair with
// the lowest rank, leftmost first, becomes one symbol, until no pair is in the list of merges.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "osp/tokenizer/json.h"
#include "osp/tokenizer/merges.h"

namespace osp::tokenizer {

struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
using Vocabulary = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

class Bpe {
 public:
  // Error(unsupported) for dropout and for prefixes or suffixes of subwords, Error(damaged) for
  // merges or an unknown token outside the vocabulary.
  explicit Bpe(const Component& model);

  // Words come as raw bytes, not in the byte-level alphabet. Returns false, and changes nothing, if
  // the model cannot work so (byte fallback is about characters).
  bool use_bytes();

  // Appends the ids of one word (valid UTF-8 unless in byte mode). Thread-safe.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;
  // The twin of encode(), by the definition above: a full scan for each merge, O(n²).
  void encode_reference(std::string_view word, std::vector<int32_t>& ids) const;

  // True if no merge and no unknown run crosses the start of an occurrence of `character` that
  // follows any other character, so that text may be cut there.
  bool may_cut_before(std::string_view character) const;

  int32_t id(std::string_view token) const;          // -1 if absent
  const std::string* token(int32_t token_id) const;  // nullptr if absent
  int32_t largest_id() const { return largest_id_; }

 private:
  void read_vocabulary(const Component& model);
  void read_merges(const Component& model);
  void first_symbols(std::string_view word, std::vector<int32_t>& ids) const;
  int32_t character_id(std::string_view character) const;
  bool whole_word(std::string_view word, std::vector<int32_t>& ids) const;

  Vocabulary ids_;
  std::unordered_map<int32_t, const std::string*> tokens_;  // keys of ids_
  MergeTable merges_;
  std::vector<int32_t> merged_ids_;  // result of each merge
  Vocabulary byte_words_;            // byte mode with ignore_merges: raw bytes of each token
  bool byte_mode_ = false;
  std::array<int32_t, 256> symbol_of_byte_{};  // byte mode: bytes; otherwise ASCII characters
  std::array<int32_t, 256> fallback_of_byte_{};
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;
  bool byte_fallback_ = false;
  bool ignore_merges_ = false;
  int32_t largest_id_ = -1;
};

}  // namespace osp::tokenizer
