// Token shards as one long stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace osp {

// Read-only view of all tokens of a split. Opening checks index and sizes, and the first use of
// each shard its SHA-256 (unless told not to): Error(damaged) otherwise. Shards are memory-mapped.
class TokenDataset {
 public:
  // `path`: a folder made by `osp tokenize` (index.json; `split` is "train" or "validation"), or
  // one .bin shard or a folder/glob of .bin shards of llm.c / modded-nanogpt (magic 20240520),
  // whose `split` is chosen by "train"/"val" in the file names where both are present.
  // .bin files have no hashes.
  static TokenDataset open(const std::string& path, const std::string& split, bool verify = true);
  // Tokens that the caller has in memory, for programs that use the library: every id in
  // [0, vocabulary), Error(usage) otherwise. No tokenizer, no end-of-document token.
  static TokenDataset from_memory(std::span<const int64_t> ids, int64_t vocabulary);
  ~TokenDataset();
  TokenDataset(TokenDataset&&) noexcept;

  uint64_t num_tokens() const;
  int64_t vocabulary() const;          // 0 if the files do not say (.bin)
  int64_t end_of_document() const;     // token id, -1 if none
  std::string tokenizer_json() const;  // stored beside the shards; "" for .bin
  std::string fingerprint() const;     // hash that identifies the data in checkpoints
  uint64_t num_bytes() const;          // of all ids
  // Copies tokens [begin, begin + out.size()). Thread-safe.
  void copy(uint64_t begin, std::span<int64_t> out) const;
  // Uses every shard: Error(damaged) naming the shard and place of the first id that is not below
  // `vocabulary`, or a shard whose hash differs. Error(interrupted) after a signal.
  void check_ids(int64_t vocabulary) const;

 private:
  struct State;
  explicit TokenDataset(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace osp
