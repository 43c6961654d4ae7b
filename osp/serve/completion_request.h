// The bodies of /v1/completions and /v1/chat/completions.
//
// Tested by completion_request_test.cpp and tests/python/test_serve.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/sampling.h"
#include "osp/model/token_penalties.h"
#include "osp/serve/chat_prompt.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// The model that is served, which requests are checked against.
struct ServedModel {
  std::string id;                // its name to clients
  std::string fingerprint = {};  // of its files and of the engine's arithmetic
  int64_t context = 0;           // tokens of prompt and answer
  int64_t vocabulary = 0;
  int64_t drawable = 0;  // ids below this have a text
  std::vector<int32_t> end_tokens = {};
  const Tokenizer* tokenizer = nullptr;
  const ChatPrompt* chat = nullptr;
};

struct Prompt {
  std::string text;  // to echo
  std::vector<int32_t> ids;
};

struct CompletionRequest {
  bool chat = false;
  std::vector<Prompt> prompts;
  int64_t n = 1;
  std::optional<int64_t> max_tokens;  // none: what is left of the context
  SamplingOptions sampling{.temperature = 1};
  PenaltyOptions penalties;
  uint64_t seed = 0;
  std::vector<std::string> stop;
  std::vector<std::pair<int32_t, float>> logit_bias;
  bool logprobs = false;
  int64_t alternatives = 0;
  bool echo = false;
  bool stream = false;
  bool include_usage = false;

  // Of the prompt's text; Error-free by check().
  int64_t most_tokens(const Prompt& prompt, int64_t context) const;
};

// ApiError for what is wrong, unknown or cannot be honoured.
CompletionRequest parse_completion(const Json& body, const ServedModel& model);
CompletionRequest parse_chat(const Json& body, const ServedModel& model);

}  // namespace osp
