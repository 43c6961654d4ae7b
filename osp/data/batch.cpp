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

void check_source(const MixtureSource& source, int64_t context, bool with_documents) {
  const std::string name =
      source.name.empty() ? std::string("the data") : "data.source " + source.name;
  if (num_windows(*source.data, context) == 0) {
    fail(ErrorCode::usage,
         "{} has {} tokens, too few for one sequence of {} and its last target: use more text or a "
         "shorter context",
         name, source.data->num_tokens(), context);
  }
  if (with_documents && source.data->end_of_document() < 0) {
    fail(ErrorCode::usage,
         "data.document_mask needs shards that name their end-of-document token; those of {} name "
         "none (.bin files never do)",
         name);
  }
}

}  // namespace

uint64_t num_windows(const TokenDataset& data, int64_t context) {
  OSP_CHECK(context > 0, "context {}", context);
  return (data.num_tokens() - 1) / static_cast<uint64_t>(context);
}

std::string window_stream(size_t source) {
  return source == 0 ? "data.windows" : "data.windows." + std::to_string(source);
}

Batch read_batch(const Mixture& mixture, const BatchPlan& plan, int64_t step, int64_t first,
                 int64_t count, bool with_documents) {
  OSP_CHECK(step >= 0 && first >= 0 && count >= 0 && first + count <= plan.sequences_per_step,
            "sequences {} to {} of {} in step {}", first, first + count, plan.sequences_per_step,
            step);
  std::vector<uint64_t> windows;
  for (const MixtureSource& source : mixture.sources()) {
    check_source(source, plan.context, with_documents);
    windows.push_back(num_windows(*source.data, plan.context));
  }
  const auto context = static_cast<size_t>(plan.context);
  const size_t num_positions = static_cast<size_t>(count) * context;
  Batch batch;
  batch.tokens.resize(num_positions);
  batch.targets.resize(num_positions);
  if (with_documents) batch.documents.resize(num_positions);
  std::vector<int64_t> window(context + 1);
  for (int64_t i = 0; i < count; ++i) {
    const Mixture::Visit visit =
        mixture.at(static_cast<uint64_t>(step) * static_cast<uint64_t>(plan.sequences_per_step) +
                       static_cast<uint64_t>(first + i),
                   plan.seed);
    const TokenDataset& data = *mixture.sources()[visit.source].data;
    const uint64_t all = windows[visit.source];
    const uint64_t place = shuffled_index(visit.number % all, all, plan.seed,
                                          window_stream(visit.source), visit.number / all);
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
