// Log-likelihoods of given continuations (the choices of benchmarks) for many texts at once.
//
// The tokens of a pass are packed without padding (osp/ops/segment_attention.h). What texts begin
// with in common is read once (osp/eval/prefix_tree.h): few-shot examples, the context of a
// question's choices, the first words of choices that begin alike. Logits exist only for the
// positions that are scored, some rows at a time. A token's result does not depend on what else is
// in the pass, apart from the rounding of sums.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

// A context with several continuations (choices); both are token ids. The caller replaces an empty
// context by the end-of-document token.
struct ChoiceRequest {
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> continuations;
  // Contexts of single continuations that need another one than `context`; empty: none does.
  std::vector<std::vector<int32_t>> own_contexts = {};

  const std::vector<int32_t>& context_of(size_t choice) const {
    const bool own = choice < own_contexts.size() && !own_contexts[choice].empty();
    return own ? own_contexts[choice] : context;
  }
};

struct ChoiceScore {
  double log_likelihood = 0;  // Σ log p(token | all tokens before it), in nats
  bool greedy = false;        // every token was the most likely one
};

struct ScoredRequest {
  std::vector<ChoiceScore> choices;
  // Largest number of context tokens that a choice dropped on the left to fit the model's context,
  // which holds the context and all but the last token of the continuation.
  int64_t cut = 0;
};

struct ScoreOptions {
  Tap* tap = nullptr;                    // e.g. FakeQuantTap; must want no attention_logits
  int64_t batch_tokens = 8192;           // about so many per forward pass, at least one question
  std::vector<int64_t> end_tokens = {};  // of generation: end a text as the end of document does
  std::function<void(int64_t done, int64_t total)> progress = {};  // requests
};

// One result per request, in order. Error(usage) for an empty context, Error(unsupported) for a
// continuation that is longer than the model's context, Error(damaged) for ids outside its
// vocabulary.
std::vector<ScoredRequest> score_choices(const ParameterStore& store,
                                         std::span<const ChoiceRequest> requests,
                                         const ScoreOptions& options = {});

}  // namespace osp
