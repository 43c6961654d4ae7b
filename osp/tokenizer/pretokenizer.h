// Pre-tokenizers of a tokenizer.json: cutting text into words, within which BPE merges.
// ByteLevel, Split, Digits, Metaspace, Sequence.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "osp/tokenizer/gpt2_split.h"
#include "osp/tokenizer/growth.h"
#include "osp/tokenizer/json.h"

namespace osp::tokenizer {

// A part of the text on its way to becoming a word. `start`: number of its first bytes that come
// from the first character of the whole text.
struct Piece {
  std::string_view text;
  size_t start;

  // Bytes from there that are left at position `at`.
  size_t start_after(size_t at) const { return start > at ? start - at : 0; }
};

// The pieces that a step makes; rewritten text lives in `storage` until the call ends.
struct PieceSink {
  std::vector<Piece> pieces;
  std::deque<std::string>* storage = nullptr;
  Growth* growth = nullptr;
  const std::string* where = nullptr;  // the step

  void add(std::string_view text, size_t start) {
    if (!text.empty()) pieces.push_back({text, start});
  }
  std::string_view keep(std::string text) {
    growth->add(text.size(), *where);
    return storage->emplace_back(std::move(text));
  }
};

class PreTokenizer {
 public:
  PreTokenizer() = default;  // the whole text is one word
  // Error(unsupported) naming an unknown type.
  explicit PreTokenizer(const Component& component);

  // If the last step is the only ByteLevel, words can be left as raw bytes, which saves writing
  // them in the byte-level alphabet: use_bytes() switches to that.
  bool can_use_bytes() const { return can_use_bytes_; }
  void use_bytes();

  // Calls word(std::string_view) for each word in order; `start` as in Piece. Thread-safe.
  // Error(unsupported) if the steps make more text than `growth` allows.
  template <class Word>
  void for_each_word(std::string_view text, size_t start, Growth& growth, Word&& word) const {
    if (text.empty()) return;
    if (steps_.empty() && !byte_words_) return word(text);
    if (steps_.empty() && !prefix_space_) return byte_words(text, word);
    std::deque<std::string> storage;
    std::vector<Piece> pieces = run(text, start, growth, storage);
    for (const Piece& piece : pieces) {
      if (!byte_words_) {
        word(piece.text);
      } else if (prefix_space_ && piece.text.front() != ' ') {
        byte_words(storage.emplace_back(" " + std::string(piece.text)), word);
      } else {
        byte_words(piece.text, word);
      }
    }
  }

 private:
  struct Step {
    std::string where;
    std::function<void(const Piece&, PieceSink&)> run;
  };
  template <class Word>
  void byte_words(std::string_view text, Word&& word) const {
    if (use_regex_) {
      for_each_gpt2_word(text, word);
    } else {
      word(text);
    }
  }
  void add(const Component& component);
  void add_step(const Component& component, std::function<void(const Piece&, PieceSink&)> run);
  void add_split(const Component& component);
  void add_metaspace(const Component& component);
  std::vector<Piece> run(std::string_view text, size_t start, Growth& growth,
                         std::deque<std::string>& storage) const;

  std::vector<Step> steps_;
  int num_byte_levels_ = 0;
  bool can_use_bytes_ = false;
  bool byte_words_ = false;  // the last step was a ByteLevel, with these two settings
  bool prefix_space_ = false;
  bool use_regex_ = false;
};

}  // namespace osp::tokenizer
