// Tokenizers: Hugging Face tokenizer.json in, token ids out and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

struct EncodeOptions {
  bool add_special_tokens = false;  // run the post-processor's template
};

// Thread-safe after construction: encode and decode are const and share no mutable state but
// per-thread caches.
class Tokenizer {
 public:
  // Error(damaged) for bad JSON, Error(unsupported) naming an unknown component. `where` names the
  // source in messages.
  static Tokenizer from_json(std::string_view json, const std::string& where);
  // A tokenizer.json, a folder with one, or a GGUF file.
  static Tokenizer from_file(const std::string& path);
  // True if a folder (or GGUF file) has a tokenizer for from_file to read.
  static bool exists(const std::string& path);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Invalid UTF-8 is replaced by U+FFFD as documented in docs/formats.md.
  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  void encode_append(std::string_view text, const EncodeOptions& options,
                     std::vector<int32_t>& ids) const;
  // The special tokens that the template puts in front of a text.
  std::vector<int32_t> front_tokens() const;
  // The ids of a text that will go on: special tokens that the template puts in front, but none of
  // those behind it. A text without any token gives the end-of-document token, and nothing if there
  // is none.
  std::vector<int32_t> encode_prompt(std::string_view text) const;
  // Unknown ids are skipped. The result of a byte-level vocabulary is the tokens' bytes as they
  // are: ids that were not encoded from whole characters may give invalid UTF-8.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens = false) const;
  // The text that one token adds, for streaming output: its bytes in a byte-level vocabulary (which
  // may be part of a character), else its text. Empty for an unknown id.
  std::string token_text(int32_t id) const;
  int64_t vocabulary() const;  // largest id + 1
  // Id of a token's content, or -1.
  int32_t token_id(std::string_view content) const;
  // "<|endoftext|>", "</s>", "<eos>" … : the first that exists as a special token, else -1.
  int32_t end_of_document() const;
  // SHA-256 of the JSON text that it was read from, and that text.
  const std::string& hash() const;
  const std::string& json() const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace osp
