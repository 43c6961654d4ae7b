// Batches as a pure function of (seed, step): the windows that a step consists of, and the targets
// that are scored in them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/data/dataset.h"
#include "osp/data/mixture.h"

namespace osp {

// The order in which sequences are visited. Sequence i of step s is visit
// s * sequences_per_step + i, which a mixture gives to one of its sources. The windows of a source,
// of context + 1 tokens and starting at multiples of context, are visited in a new shuffled order
// in each of its epochs (base/philox shuffled_index); an epoch is num_windows() of its visits and
// may end inside a step. With blocks, an epoch visits one block of consecutive windows after the
// other, in a shuffled order, and the windows of each in one of their own; the windows behind the
// last whole block come at the end of the epoch. Few shards are then in use at a time.
struct BatchPlan {
  uint64_t seed = 0;
  int64_t context = 0;
  int64_t sequences_per_step = 0;
  uint64_t block_windows = 0;  // 0: all windows are one block
};

// Marks a target that is not scored.
inline constexpr int64_t kIgnoredTarget = -1;

struct Batch {
  std::vector<int64_t> tokens;     // [sequences, context]
  std::vector<int64_t> targets;    // [sequences, context]: tokens shifted by one
  std::vector<int32_t> documents;  // [sequences, context]; filled if asked for
  // Of a validation slice of several sources: which sequences are whose.
  struct Part {
    std::string name;
    int64_t first = 0, count = 0;
  };
  std::vector<Part> parts = {};
};

// Windows of one epoch; tokens after the last full window are not visited.
uint64_t num_windows(const TokenDataset& data, int64_t context);

// The source of a sequence, and the first token of its window.
struct WindowPlace {
  size_t source = 0;
  uint64_t begin = 0;
};
WindowPlace window_place(const Mixture& mixture, const BatchPlan& plan, int64_t step,
                         int64_t sequence);

// Error(usage) if a source has no full window, or no end-of-document token where documents are
// asked for.
void check_sources(const Mixture& mixture, const BatchPlan& plan, bool with_documents);

// Of the name of a random stream: each source's windows have their own shuffles.
std::string window_stream(size_t source);

// Sequences [first, first + count) of step `step` (0-based). Pure function of its arguments. With
// documents, numbers start at 0 in each sequence and grow after each end-of-document token, and the
// target of an end-of-document token, which is the first token of the next document, is
// kIgnoredTarget; without, every target is scored. Errors of check_sources() and
// TokenDataset::copy().
Batch read_batch(const Mixture& mixture, const BatchPlan& plan, int64_t step, int64_t first,
                 int64_t count, bool with_documents);

}  // namespace osp
