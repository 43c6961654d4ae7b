// Log-probabilities of tokens in the two forms of the API.
//
// Tested by tests/python/test_serve.py.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/base/json.h"
#include "osp/serve/scheduler.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// A token with the place in the text, in characters, at which it begins.
struct PlacedToken {
  ScoredToken token;
  int64_t place = 0;
};

// Of /v1/completions: lists of names, log-probabilities, alternatives by name, and places. A token
// without a score (the first of a prompt) has null.
Json completion_logprobs(const std::vector<PlacedToken>& tokens, int64_t alternatives,
                         const Tokenizer& tokenizer);
// Of /v1/chat/completions: a list of objects with the tokens' bytes.
Json chat_logprobs(const std::vector<PlacedToken>& tokens, const Tokenizer& tokenizer);

}  // namespace osp
