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

// The window that is the `visit`-th of an epoch of `all`.
uint64_t window_of_epoch(const BatchPlan& plan, uint64_t visit, uint64_t all,
                         const std::string& stream, uint64_t epoch) {
  const uint64_t block = plan.block_windows;
  if (block == 0 || block >= all) return shuffled_index(visit, all, plan.seed, stream, epoch);
  const uint64_t whole = all / block, turn = visit / block;
  const uint64_t number =
      turn < whole ? shuffled_index(turn, whole, plan.seed, stream + ".blocks", epoch) : whole;
  const uint64_t first = number * block, size = std::min(block, all - first);
  // Every block of every epoch has its own order.
  return first + shuffled_index(visit % block, size, plan.seed, stream + ".in_block",
                                epoch * (whole + 1) + number);
}

}  // namespace

uint64_t num_windows(const TokenDataset& data, int64_t context) {
  OSP_CHECK(context > 0, "context {}", context);
  return (data.num_tokens() - 1) / static_cast<uint64_t>(context);
}

std::string window_stream(size_t source) {
  return source == 0 ? "data.windows" : "data.windows." + std::to_string(source);
}

WindowPlace window_place(const Mixture& mixture, const BatchPlan& plan, int64_t step,
                         int64_t sequence) {
  const Mixture::Visit visit =
      mixture.at(static_cast<uint64_t>(step) * static_cast<uint64_t>(plan.sequences_per_step) +
                     static_cast<uint64_t>(sequence),
                 plan.seed);
  const uint64_t all = num_windows(*mixture.sources()[visit.source].data, plan.context);
  const uint64_t window = window_of_epoch(plan, visit.number % all, all,
                                          window_stream(visit.source), visit.number / all);
  return {visit.source, window * static_cast<uint64_t>(plan.context)};
}

void check_sources(const Mixture& mixture, const BatchPlan& plan, bool with_documents) {
  for (const MixtureSource& source : mixture.sources()) {
    check_source(source, plan.context, with_documents);
  }
}

Batch read_batch(const Mixture& mixture, const BatchPlan& plan, int64_t step, int64_t first,
                 int64_t count, bool with_documents) {
  OSP_CHECK(step >= 0 && first >= 0 && count >= 0 && first + count <= plan.sequences_per_step,
            "sequences {} to {} of {} in step {}", first, first + count, plan.sequences_per_step,
            step);
  check_sources(mixture, plan, with_documents);
  const auto context = static_cast<size_t>(plan.context);
  const size_t num_positions = static_cast<size_t>(count) * context;
  Batch batch;
  batch.tokens.resize(num_positions);
  batch.targets.resize(num_positions);
  if (with_documents) batch.documents.resize(num_positions);
  std::vector<int64_t> window(context + 1);
  for (int64_t i = 0; i < count; ++i) {
    const WindowPlace place = window_place(mixture, plan, step, first + i);
    const TokenDataset& data = *mixture.sources()[place.source].data;
    data.copy(place.begin, window);
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
