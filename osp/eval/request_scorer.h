// Log-likelihoods of given continuations and greedy continuations of many texts: what benchmarks
// ask of a model.
//
// Tokens of a pass are packed without padding (osp/ops/segment_attention.h). A question's choices
// continue one copy of the question, and questions that begin alike (few-shot examples) one copy of
// their beginning; logits exist only for the positions that are scored, some rows at a time. A
// token's result does not depend on what else is in the pass, but for the rounding of sums.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// A context with several continuations (choices); both are token ids. The caller replaces an empty
// context by the end-of-document token.
struct ChoiceRequest {
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> continuations;
};

struct ChoiceScore {
  double log_likelihood = 0;  // Σ log p(token | what comes before), in nats
  bool greedy = false;        // every token was the most likely one
};

struct ScoredRequest {
  std::vector<ChoiceScore> choices;
  // Most tokens that a choice's context lost on the left to fit the model's context: the model
  // reads the context and all but the last token of the continuation.
  int64_t cut = 0;
};

struct ScoreOptions {
  Tap* tap = nullptr;                    // e.g. FakeQuantTap; must want no attention_logits
  int64_t batch_tokens = 8192;           // of one forward pass, at least one question
  std::vector<int64_t> end_tokens = {};  // end a text, beside the end-of-document token
  std::function<void(int64_t done, int64_t total)> progress = {};  // requests
};

// One result per request, in order. Error(usage) for an empty context, Error(unsupported) for a
// continuation that is longer than the model's context, Error(damaged) for ids that it does not
// have.
std::vector<ScoredRequest> score_choices(const ParameterStore& store,
                                         std::span<const ChoiceRequest> requests,
                                         const ScoreOptions& options = {});

struct GenerationRequest {
  std::vector<int32_t> context;
  int64_t max_tokens = 0;
  std::vector<std::string> stop;
};

struct GeneratedText {
  std::string text;             // before the first stop string
  std::vector<int32_t> tokens;  // without the end-of-document token
  int64_t cut = 0;              // context tokens dropped on the left, so that max_tokens fit
};

// Always the most likely token, until the end of the document, an end token, a stop string or
// max_tokens. Errors as above; Error(unsupported) also where max_tokens leaves no room for a context.
std::vector<GeneratedText> generate_greedy(const ParameterStore& store, const Tokenizer& tokenizer,
                                           std::span<const GenerationRequest> requests,
                                           const ScoreOptions& options = {});

}  // namespace osp
