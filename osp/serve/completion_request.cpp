#include "osp/serve/completion_request.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <random>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/serve/api_error.h"
#include "osp/serve/request_fields.h"

namespace osp {
namespace {

constexpr int64_t kMostChoices = 128;   // n
constexpr size_t kMostPrompts = 2048;   // of one request
constexpr size_t kMostStops = 32;       // lm-eval's tasks have up to a dozen; OpenAI takes 4
constexpr int64_t kDefaultTokens = 16;  // of /v1/completions, as OpenAI's
constexpr int64_t kMostTokens = int64_t{1} << 40;
// Log-probabilities of one answer: half a gigabyte of memory.
constexpr int64_t kMostLogprobs = 4'000'000;

std::vector<int32_t> ids_of_list(const Json& list, const ServedModel& model) {
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id >= model.vocabulary) {
      throw ApiError(400,
                     fmt::format("prompt has {}, expected token ids below {}",
                                 printable(id.dump(), 40), model.vocabulary),
                     "prompt");
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

Prompt prompt_of(const Json& value, const ServedModel& model) {
  Prompt prompt;
  if (value.is_string()) {
    prompt.text = value.get<std::string>();
    prompt.ids = model.tokenizer->encode_prompt(prompt.text);
  } else if (value.is_array()) {
    prompt.ids = ids_of_list(value, model);
    prompt.text = model.tokenizer->decode(prompt.ids, true);
  } else {
    throw ApiError(400, "prompt is neither a text, a list of texts, token ids nor lists of them",
                   "prompt");
  }
  if (prompt.ids.empty()) throw ApiError(400, "prompt has no tokens", "prompt");
  return prompt;
}

std::vector<Prompt> prompts_of(const Json* value, const ServedModel& model) {
  if (value == nullptr) throw ApiError(400, "prompt is missing", "prompt");
  const bool several = value->is_array() && !value->empty() && !value->front().is_number();
  if (!several) return {prompt_of(*value, model)};
  if (value->size() > kMostPrompts) {
    throw ApiError(
        400, fmt::format("prompt has {} texts, at most {} are taken", value->size(), kMostPrompts),
        "prompt");
  }
  std::vector<Prompt> prompts;
  for (const Json& one : *value) prompts.push_back(prompt_of(one, model));
  return prompts;
}

std::vector<std::string> stops_of(const Json* value) {
  if (value == nullptr) return {};
  std::vector<std::string> stops;
  for (const Json& stop : value->is_array() ? *value : Json::array({*value})) {
    if (!stop.is_string())
      throw ApiError(400, "stop is neither a text nor a list of texts", "stop");
    if (!stop.get<std::string>().empty()) stops.push_back(stop.get<std::string>());
  }
  if (stops.size() > kMostStops) {
    throw ApiError(400,
                   fmt::format("stop has {} texts, at most {} are taken", stops.size(), kMostStops),
                   "stop");
  }
  return stops;
}

std::vector<std::pair<int32_t, float>> biases_of(const Json* value, const ServedModel& model) {
  std::vector<std::pair<int32_t, float>> biases;
  if (value == nullptr) return biases;
  if (!value->is_object()) throw ApiError(400, "logit_bias is not an object", "logit_bias");
  for (const auto& [name, bias] : value->items()) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), id);
    const bool good = error == std::errc() && end == name.data() + name.size() && id >= 0 &&
                      id < model.drawable && bias.is_number() &&
                      std::abs(bias.get<double>()) <= 100;
    if (!good) {
      throw ApiError(400,
                     fmt::format("logit_bias has {}: {}, expected a token id below {} and a number "
                                 "from -100 to 100",
                                 printable(name, 40), printable(bias.dump(), 40), model.drawable),
                     "logit_bias");
    }
    biases.emplace_back(static_cast<int32_t>(id), bias.get<float>());
  }
  return biases;
}

void check_model(RequestFields& fields, const ServedModel& model) {
  const auto name = fields.text("model");
  if (!name.has_value() || *name == model.id) return;
  throw ApiError(404,
                 fmt::format("the model {} does not exist here; this server has {}",
                             printable(*name, 80), model.id),
                 "model", "model_not_found");
}

// Parameters that both kinds of requests have.
void take_common(RequestFields& fields, const ServedModel& model, CompletionRequest& request) {
  check_model(fields, model);
  request.n = fields.integer("n", 1, kMostChoices).value_or(1);
  request.sampling.temperature = fields.number("temperature", 0, 100).value_or(1);
  request.sampling.top_p = fields.number("top_p", 0, 1).value_or(1);
  request.sampling.top_k = fields.integer("top_k", 0, model.vocabulary).value_or(0);
  request.sampling.min_p = fields.number("min_p", 0, 1).value_or(0);
  request.penalties = {
      .presence = fields.number("presence_penalty", -2, 2).value_or(0),
      .frequency = fields.number("frequency_penalty", -2, 2).value_or(0),
      .repetition = fields
                        .number("repetition_penalty", PenaltyOptions::kLeastRepetition,
                                PenaltyOptions::kMostRepetition)
                        .value_or(1)};
  // Zero asks for the most likely token alone.
  if (request.sampling.top_p == 0) request.sampling.temperature = 0, request.sampling.top_p = 1;
  const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX);
  request.seed = seed.has_value() ? static_cast<uint64_t>(*seed)
                                  : uint64_t{std::random_device()()} << 32 | std::random_device()();
  request.stop = stops_of(fields.value("stop"));
  request.logit_bias = biases_of(fields.value("logit_bias"), model);
  request.stream = fields.flag("stream", false);
  if (const Json* options = fields.value("stream_options")) {
    if (!request.stream) {
      throw ApiError(400, "stream_options is for requests with stream", "stream_options");
    }
    RequestFields inner(*options);
    request.include_usage = inner.flag("include_usage", false);
    inner.ignore({"include_obfuscation"});
    inner.finish();
  }
  fields.ignore({"user", "metadata", "store", "service_tier", "prompt_cache_key",
                 "prompt_cache_retention", "safety_identifier"});
}

// That every prompt fits, with what is to be written.
void check_lengths(const CompletionRequest& request, const ServedModel& model) {
  for (const Prompt& prompt : request.prompts) {
    const auto tokens = static_cast<int64_t>(prompt.ids.size());
    // The last token that is written is not read.
    const int64_t most = request.max_tokens.value_or(1);
    if (tokens + std::max<int64_t>(most, 1) - 1 <= model.context) continue;
    throw ApiError(400,
                   fmt::format("the context is {} tokens; the prompt has {} and {} are asked for",
                               model.context, tokens, most),
                   request.chat ? "messages" : "prompt", "context_length_exceeded");
  }
}

// That the log-probabilities that are asked for can be held until they are sent.
void check_logprobs(const CompletionRequest& request, const ServedModel& model) {
  if (!request.logprobs) return;
  int64_t tokens = 0;
  for (const Prompt& prompt : request.prompts) {
    const auto echoed = request.echo ? static_cast<int64_t>(prompt.ids.size()) : 0;
    tokens += request.n * (echoed + request.most_tokens(prompt, model.context));
  }
  const int64_t listed = tokens * (1 + request.alternatives);
  if (listed <= kMostLogprobs) return;
  throw ApiError(
      400,
      fmt::format("the answer may have {} tokens, with {} log-probabilities each; at most {} "
                  "log-probabilities are given at once: ask for fewer tokens, texts or "
                  "alternatives",
                  tokens, 1 + request.alternatives, kMostLogprobs),
      "logprobs");
}

}  // namespace

int64_t CompletionRequest::most_tokens(const Prompt& prompt, int64_t context) const {
  const int64_t left = context - static_cast<int64_t>(prompt.ids.size()) + 1;
  if (max_tokens.has_value()) return *max_tokens;
  return chat ? left : std::min(left, kDefaultTokens);
}

CompletionRequest parse_completion(const Json& body, const ServedModel& model) {
  RequestFields fields(body);
  CompletionRequest request;
  take_common(fields, model, request);
  request.prompts = prompts_of(fields.value("prompt"), model);
  request.max_tokens = fields.integer("max_tokens", 0, kMostTokens);
  request.echo = fields.flag("echo", false);
  const auto logprobs = fields.integer("logprobs", 0, 20);
  request.logprobs = logprobs.has_value();
  request.alternatives = logprobs.value_or(0);
  fields.refuse("suffix", {""});
  fields.refuse("best_of", {1, request.n});
  fields.finish();
  check_lengths(request, model);
  check_logprobs(request, model);
  return request;
}

CompletionRequest parse_chat(const Json& body, const ServedModel& model) {
  RequestFields fields(body);
  CompletionRequest request;
  request.chat = true;
  take_common(fields, model, request);
  const Json* messages = fields.value("messages");
  if (messages == nullptr) throw ApiError(400, "messages is missing", "messages");
  Prompt prompt;
  prompt.text = model.chat->render(*messages);
  prompt.ids = model.tokenizer->encode(prompt.text);
  request.prompts = {std::move(prompt)};
  request.max_tokens = fields.integer("max_completion_tokens", 1, kMostTokens);
  const auto older = fields.integer("max_tokens", 1, kMostTokens);
  if (!request.max_tokens.has_value()) request.max_tokens = older;
  request.logprobs = fields.flag("logprobs", false);
  const auto top = fields.integer("top_logprobs", 0, 20);
  if (top.has_value() && !request.logprobs) {
    throw ApiError(400, "top_logprobs is for requests with logprobs", "top_logprobs");
  }
  request.alternatives = top.value_or(0);
  fields.refuse("tools", {});
  fields.refuse("tool_choice", {"none", "auto"});
  fields.refuse("functions", {});
  fields.refuse("function_call", {"none", "auto"});
  fields.refuse("response_format", {Json{{"type", "text"}}});
  fields.refuse("modalities", {Json::array({"text"})});
  for (const char* name :
       {"audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"}) {
    fields.refuse(name, {});
  }
  fields.ignore({"parallel_tool_calls"});
  fields.finish();
  check_lengths(request, model);
  check_logprobs(request, model);
  return request;
}

}  // namespace osp
