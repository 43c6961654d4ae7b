// Token shards as one long stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "osp/data/object_cache.h"

namespace osp {

// True if `path` names token shards and not a text: a folder, also in an object store, a .bin file
// or index.json.
bool names_token_shards(const std::string& path);

// What a data set that lies in an object store has in this machine's cache.
struct StoredState {
  uint64_t shards = 0, num_bytes = 0;
  uint64_t shards_here = 0, bytes_here = 0;
};

// Read-only view of all tokens of a split. Opening checks index and sizes, and the first use of
// each shard its SHA-256 (unless told not to): Error(damaged) otherwise. Shards are memory-mapped.
// Those in an object store are fetched whole into the cache when they are first used
// (osp/data/stored_shards.h), or before that with fetch_shard().
class TokenDataset {
 public:
  // `path`: a folder made by `osp tokenize` (index.json; `split` is "train" or "validation"), or
  // one .bin shard or a folder/glob of .bin shards of llm.c / modded-nanogpt (magic 20240520),
  // whose `split` is chosen by "train"/"val" in the file names where both are present.
  // .bin files have no hashes. The folder may lie in an object store: s3://BUCKET/KEY.
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
  // Tokens [0, count), or all of them for 0. Error(interrupted) after a signal.
  std::vector<int64_t> first_tokens(uint64_t count) const;
  // Uses every shard: Error(damaged) naming the shard and place of the first id that is not below
  // `vocabulary`, or a shard whose hash differs. Error(interrupted) after a signal. Shards in an
  // object store are checked when they are used.
  void check_ids(int64_t vocabulary) const;

  // Shards by number, for who fetches them before they are used.
  size_t num_shards() const;
  size_t shard_at(uint64_t token) const;
  uint64_t shard_bytes(size_t shard) const;
  uint64_t shard_begin(size_t shard) const;  // its first token
  // Brings a shard into the cache; nothing to do for local files. Errors as copy()'s. Thread-safe.
  void fetch_shard(size_t shard) const;
  bool is_stored() const;
  StoredState stored_state() const;  // all 0 for local files
  CacheOptions cache_limit() const;  // of the cache that its shards are fetched into

 private:
  struct State;
  explicit TokenDataset(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace osp
