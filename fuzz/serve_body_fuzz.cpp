// Feeds arbitrary JSON to the readers of both requests of `osp serve`, and plays the engine for
// those that are taken: their texts are written with tokens drawn from the body. What is taken
// keeps to the limits; what is refused is refused by an answer that is JSON.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/byte_level.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/http/http_server.h"
// Without the scheduler, whose part this target plays, and the tensor library that it needs.
// NOLINTBEGIN(bugprone-suspicious-include)
#include "osp/serve/answer.cpp"
#include "osp/serve/api_error.cpp"
#include "osp/serve/chat_prompt.cpp"
#include "osp/serve/completion_request.cpp"
#include "osp/serve/logprobs_json.cpp"
#include "osp/serve/request_fields.cpp"
#include "osp/serve/token_text.cpp"
// NOLINTEND(bugprone-suspicious-include)

namespace {

constexpr const char* kKeys[] = {
    "model",
    "prompt",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "max_tokens",
    "n",
    "logprobs",
    "top_logprobs",
    "max_completion_tokens",
    "stop",
    "stream",
    "stream_options",
    "include_usage",
    "echo",
    "seed",
    "logit_bias",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "best_of",
    "suffix",
    "tools",
    "frequency_penalty",
    "tool_choice",
    "response_format",
    "modalities",
    "repetition_penalty",
    "tool_calls",
    "user",
    "5",
    "255",
};
constexpr int64_t kContext = 300;

const osp::ServedModel& served_model() {
  static const osp::Tokenizer tokenizer = osp::fuzz::byte_level();
  static const osp::ChatPrompt chat(
      "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
      "{{ raise_exception('system first') }}{% endif %}[{{ m.role }}] {{ m.content | trim }}\n"
      "{% endfor %}[assistant]");
  static const osp::ServedModel model{.id = "m",
                                      .context = kContext,
                                      .vocabulary = tokenizer.vocabulary(),
                                      .drawable = tokenizer.vocabulary(),
                                      .tokenizer = &tokenizer,
                                      .chat = &chat};
  return model;
}

void check_limits(const osp::CompletionRequest& request) {
  OSP_CHECK(!request.prompts.empty() && request.n >= 1 && request.n <= 128, "no texts");
  OSP_CHECK(request.alternatives >= 0 && request.alternatives <= 20, "too many alternatives");
  OSP_CHECK(!request.chat || request.prompts.size() == 1, "a chat of several prompts");
  osp::check_sampling(request.sampling);
  for (const osp::Prompt& prompt : request.prompts) {
    const auto tokens = static_cast<int64_t>(prompt.ids.size());
    const int64_t most = request.most_tokens(prompt, kContext);
    OSP_CHECK(tokens > 0 && most >= 0 && tokens + std::max<int64_t>(most, 1) - 1 <= kContext,
              "{} tokens and {} of an answer", tokens, most);
    for (const int32_t id : prompt.ids) {
      OSP_CHECK(id >= 0 && id < served_model().vocabulary, "token {}", id);
    }
  }
  for (const auto& [id, bias] : request.logit_bias) {
    OSP_CHECK(id >= 0 && id < served_model().drawable && std::abs(bias) <= 100, "bias {}", bias);
  }
}

osp::ScoredToken scored(int32_t id, bool wanted, int64_t alternatives) {
  osp::ScoredToken token{.id = id, .scored = wanted, .logprob = -0.5};
  for (int32_t other = 0; wanted && other < alternatives; ++other) {
    token.alternatives.emplace_back(other * 12, -0.25 * other);
  }
  return token;
}

// Writes every text as the scheduler does.
void write_texts(const osp::CompletionRequest& request, const uint8_t* data, size_t size) {
  static const auto waker = std::make_shared<const osp::HttpWaker>();
  osp::HttpRequest http;
  http.chunked = true;
  const auto reply = std::make_shared<osp::HttpReply>(http, true, waker);
  const auto answer = std::make_shared<osp::Answer>(request, served_model(), reply);
  size_t place = 0;
  for (auto& [text, listener] : answer->texts()) {
    std::vector<osp::ScoredToken> prompt;
    for (size_t i = 0; text.prompt_logprobs && i < text.prompt.size(); ++i) {
      prompt.push_back(scored(text.prompt[i], i > 0, text.alternatives));
    }
    OSP_CHECK(listener->wanted(), "nobody waits for the text");
    listener->on_prompt(prompt, 0);
    bool goes_on = true;
    const int64_t most = std::min<int64_t>(text.max_tokens, 24);
    for (int64_t i = 0; i < most && goes_on; ++i) {
      const int32_t id = data[place++ % size];
      goes_on = listener->on_token(scored(id, text.logprobs, text.alternatives), false);
    }
    listener->on_end(goes_on ? osp::TextEnd::length : osp::TextEnd::stopped);
  }
}

// Whether the request is one.
bool take(const osp::Json& body, bool chat, const uint8_t* data, size_t size) {
  try {
    const auto parse = chat ? osp::parse_chat : osp::parse_completion;
    const osp::CompletionRequest request = parse(body, served_model());
    check_limits(request);
    if (request.prompts.size() * static_cast<size_t>(request.n) <= 16) {
      write_texts(request, data, size);
    }
    return true;
  } catch (const osp::ApiError& error) {
    OSP_CHECK(error.status == 400 || error.status == 404, "status {}", error.status);
    const osp::HttpResponse response = osp::error_response(error);
    OSP_CHECK(osp::parse_json(*response.body, "answer").contains("error"), "no error object");
    return false;
  }
}

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::Json body;
  try {
    body = osp::parse_json({reinterpret_cast<const char*>(data), size}, "the body", 64);
  } catch (const osp::Error&) {
    return 0;
  }
  const bool completion = take(body, false, data, size), chat = take(body, true, data, size);
  if (completion || chat) osp::fuzz::accepted(data, size);
  return 0;
}
