#include "osp/data/batch.h"

#include <algorithm>
#include <span>

#include "osp/base/error.h"
#include "osp/base/philox.h"

namespace osp {
namespace {

// Numbers the documents of one sequence and stops scoring at its boundaries.
void mark_documents(std::span<const int64_t> tokens, int64_t end_of_document,
                    std::span<int64_t> targets, std::span<int32_t> documents) {
  int32_t document = 0;
  for (size_t t = 0; t < tokens.size(); ++t) {
    documents[t] = document;
    if (tokens[t] == end_of_document) {
      targets[t] = kIgnoredTarget;
      ++document;
    }
  }
}

}  // namespace

uint64_t num_windows(const TokenDataset& data, int64_t context) {
  OSP_CHECK(context > 0, "context {}", context);
  return (data.num_tokens() - 1) / static_cast<uint64_t>(context);
}

Batch read_batch(const TokenDataset& data, const BatchPlan& plan, int64_t step, int64_t first,
                 int64_t count, bool with_documents) {
  OSP_CHECK(step >= 0 && first >= 0 && count >= 0 && first + count <= plan.sequences_per_step,
            "sequences {} to {} of {} in step {}", first, first + count, plan.sequences_per_step,
            step);
  const uint64_t windows = num_windows(data, plan.context);
  if (windows == 0) {
    fail(
        ErrorCode::usage,
        "the data has {} tokens, too few for one sequence of {} and its last target: use more text "
        "or a shorter context",
        data.num_tokens(), plan.context);
  }
  if (with_documents && data.end_of_document() < 0) {
    fail(ErrorCode::usage,
         "data.document_mask needs shards that name their end-of-document token; these name none "
         "(.bin files never do)");
  }
  const auto context = static_cast<size_t>(plan.context);
  const size_t num_positions = static_cast<size_t>(count) * context;
  Batch batch;
  batch.tokens.resize(num_positions);
  batch.targets.resize(num_positions);
  if (with_documents) batch.documents.resize(num_positions);
  std::vector<int64_t> window(context + 1);
  for (int64_t i = 0; i < count; ++i) {
    const auto visit =
        static_cast<uint64_t>(step) * static_cast<uint64_t>(plan.sequences_per_step) +
        static_cast<uint64_t>(first + i);
    const uint64_t place =
        shuffled_index(visit % windows, windows, plan.seed, "data.windows", visit / windows);
    data.copy(place * context, window);
    const size_t row = static_cast<size_t>(i) * context;
    std::copy(window.begin(), window.end() - 1, batch.tokens.begin() + row);
    std::copy(window.begin() + 1, window.end(), batch.targets.begin() + row);
    if (with_documents) {
      mark_documents({batch.tokens.data() + row, context}, data.end_of_document(),
                     {batch.targets.data() + row, context},
                     {batch.documents.data() + row, context});
    }
  }
  return batch;
}

}  // namespace osp
