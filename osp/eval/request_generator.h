// Greedy continuations of many texts side by side. The rows of a batch lie in one packed cache:
// what several contexts share, then each row's own tokens with room for those to come.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "osp/eval/request_scorer.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

struct GenerationRequest {
  std::vector<int32_t> context;
  int64_t max_tokens = 0;
  std::vector<std::string> stop;  // texts that end the continuation
};

struct GeneratedText {
  std::string text;             // before the first stop string
  std::vector<int32_t> tokens;  // without the end-of-document token
  int64_t cut = 0;              // context tokens dropped on the left, so that max_tokens fit
};

// Takes the most likely token each time, until the end of the document, an end token, a stop string
// or max_tokens. Errors as score_choices; Error(unsupported) also where max_tokens leaves no room
// for a context.
std::vector<GeneratedText> generate_greedy(const ParameterStore& store, const Tokenizer& tokenizer,
                                           std::span<const GenerationRequest> requests,
                                           const ScoreOptions& options = {});

}  // namespace osp
