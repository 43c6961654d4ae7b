// Log-likelihoods of continuations and greedy text for many requests at once.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "osp/data/tokenizer.h"
#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

// A context with several continuations (choices); both are token ids. An empty context is replaced
// by the end-of-document token by the caller.
struct ChoiceRequest {
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> continuations;
};

struct ChoiceScore {
  double log_likelihood = 0;  // sum of log p in nats
  bool greedy = false;        // every token was the most likely one
};

struct ScoredRequest {
  std::vector<ChoiceScore> choices;
  int64_t cut = 0;  // context tokens dropped on the left to fit the model's context
};

struct ScoreOptions {
  Tap* tap = nullptr;
  int64_t batch_tokens = 8192;
  std::function<void(int64_t done, int64_t total)> progress = {};
};

std::vector<ScoredRequest> score_choices(const ParameterStore& store,
                                         std::span<const ChoiceRequest> requests,
                                         const ScoreOptions& options = {});

struct GenerationRequest {
  std::vector<int32_t> context;
  int64_t max_tokens = 0;
  std::vector<std::string> stop;
};

struct GeneratedText {
  std::string text;  // before the first stop string
  std::vector<int32_t> tokens;
  int64_t cut = 0;
};

std::vector<GeneratedText> generate_greedy(const ParameterStore& store, const Tokenizer& tokenizer,
                                           std::span<const GenerationRequest> requests,
                                           const ScoreOptions& options = {});

}  // namespace osp
