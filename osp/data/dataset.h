// Token shards as one long stream, and batches as a pure function of (seed, step).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace osp {

// Read-only view of all tokens of a split. Opening checks index, sizes and (with verify) SHA-256:
// Error(damaged) otherwise. Shards are memory-mapped.
class TokenDataset {
 public:
  // `path`: a folder made by `osp tokenize` (index.json; `split` is "train" or "validation"), or
  // one .bin shard or a folder/glob of .bin shards of llm.c / modded-nanogpt (magic 20240520),
  // whose `split` is chosen by "train"/"val" in the file names where both are present.
  static TokenDataset open(const std::string& path, const std::string& split, bool verify = false);
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
  // Copies tokens [begin, begin + out.size()).
  void copy(uint64_t begin, std::span<int64_t> out) const;
  // Error(damaged) naming shard and place of the first id that is not below `vocabulary`.
  void check_ids(int64_t vocabulary) const;

 private:
  struct State;
  explicit TokenDataset(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Where the sequences of a step come from. Windows of context + 1 tokens, starting at multiples of
// context, are visited in a new shuffled order in each epoch (base/philox shuffled_index). Sequence
// i of step s is visit s * sequences_per_step + i; an epoch is num_windows() visits and may end
// inside a step.
struct BatchPlan {
  uint64_t seed = 0;
  int64_t context = 0;
  int64_t sequences_per_step = 0;
};

// Marks a target that is not scored.
inline constexpr int64_t kIgnoredTarget = -1;

struct Batch {
  std::vector<int64_t> tokens;     // [sequences, context]
  std::vector<int64_t> targets;    // [sequences, context]: tokens shifted by one
  std::vector<int32_t> documents;  // [sequences, context]; filled if asked for
};

// Windows of one epoch; tokens after the last full window are not visited.
uint64_t num_windows(const TokenDataset& data, int64_t context);

// Sequences [first, first + count) of step `step` (0-based). Pure function of its arguments. With
// documents, numbers start at 0 in each sequence and grow after each end-of-document token, and the
// target of an end-of-document token, which is the first token of the next document, is
// kIgnoredTarget; without, every target is scored. Error(usage) if the data has no full window, or
// no end-of-document token where documents are asked for.
Batch read_batch(const TokenDataset& data, const BatchPlan& plan, int64_t step, int64_t first,
                 int64_t count, bool with_documents);

}  // namespace osp
