// Batches as a pure function of (seed, step): the windows that a step consists of, and the targets
// that are scored in them.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/data/dataset.h"

namespace osp {

// The order in which sequences are visited. Windows of context + 1 tokens, starting at multiples of
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
