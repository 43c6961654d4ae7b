#include "osp/cli/score_requests.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/data/json_line.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

const Tokenizer& needed_tokenizer(const ScoreModel& model, const std::string& at) {
  if (!model.tokenizer) {
    fail(ErrorCode::usage,
         "{}: a text for a model dir without a tokenizer.json; give lists of token ids", at);
  }
  return *model.tokenizer;
}

std::vector<int32_t> token_ids(const Json& list, const std::string& key, const std::string& at) {
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      fail(ErrorCode::damaged, "{}: \"{}\" has {}, expected token ids", at, key, json_text(id));
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

const Json& text_or_ids(const Json& object, const std::string& key, const std::string& at) {
  const auto found = object.find(key);
  if (found == object.end() || !(found->is_string() || found->is_array())) {
    fail(ErrorCode::damaged, "{}: \"{}\" is missing or neither a text nor a list of token ids", at,
         key);
  }
  return *found;
}

ChoiceRequest choice_request(const Json& object, const std::string& at, const ScoreModel& model) {
  const Json& context = text_or_ids(object, "context", at);
  const Json& continuation = text_or_ids(object, "continuation", at);
  if (context.type() != continuation.type()) {
    fail(ErrorCode::damaged, "{}: of \"context\" and \"continuation\" one is a text, the other not",
         at);
  }
  if (context.is_array()) {
    ChoiceRequest request{token_ids(context, "context", at),
                          {token_ids(continuation, "continuation", at)}};
    if (request.continuations[0].empty()) {
      fail(ErrorCode::unsupported, "{}: \"continuation\" has no tokens: there is nothing to score",
           at);
    }
    return request;
  }
  const auto text = continuation.get<std::string>();
  const PromptEncoder encoder(needed_tokenizer(model, at));
  try {
    return encoder.choices(context.get<std::string>(), {&text, 1});
  } catch (const Error& error) {
    fail(error.code(), "{}: {}", at, error.what());
  }
}

Json score_json(std::span<const ScoredRequest> parts, std::span<const ChoiceRequest> requests) {
  double log_likelihood = 0;
  bool greedy = true;
  int64_t cut = 0;
  size_t tokens = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    log_likelihood += parts[i].choices[0].log_likelihood;
    greedy = greedy && parts[i].choices[0].greedy;
    cut += parts[i].cut;
    tokens += requests[i].continuations[0].size();
  }
  Json json;
  json["log_likelihood"] = log_likelihood;
  json["greedy"] = greedy;
  json["tokens"] = tokens;
  json["cut"] = cut;
  return json;
}

// RFC 4648, with padding.
std::string base64(const uint8_t* bytes, size_t size) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((size + 2) / 3 * 4);
  for (size_t i = 0; i < size; i += 3) {
    const size_t left = std::min<size_t>(size - i, 3);
    uint32_t word = 0;
    for (size_t k = 0; k < 3; ++k) word = word << 8 | (k < left ? bytes[i + k] : 0);
    for (size_t k = 0; k < 4; ++k) {
      text += k <= left ? kDigits[word >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

// One forward pass, whole: what a token sees is what stands in front of it in the list.
at::Tensor logits_of(const std::vector<int32_t>& ids, const ScoreModel& model, Tap* tap) {
  const at::NoGradGuard no_grad;
  ForwardOptions options;
  options.tap = tap;
  const at::Device device = model.store.banks[0].master.device();
  const at::Tensor tokens_BT =
      at::tensor(at::ArrayRef<int32_t>(ids), at::kInt).to(at::kLong).unsqueeze(0).to(device);
  return forward_logits(model.store, tokens_BT, options)[0].to(at::kFloat).cpu().contiguous();
}

Json logits_json(const at::Tensor& logits) {
  Json json;
  json["shape"] = logits.sizes().vec();
  json["logits"] = base64(static_cast<const uint8_t*>(logits.const_data_ptr()), logits.nbytes());
  return json;
}

}  // namespace

void RequestBatch::add_logits(const Json& object, const std::string& at, const ScoreModel& model) {
  const Json& given = text_or_ids(object, "logits_of", at);
  std::vector<int32_t> ids =
      given.is_array()
          ? token_ids(given, "logits_of", at)
          : PromptEncoder(needed_tokenizer(model, at)).context(given.get<std::string>());
  const ModelConfig& config = model.store.config;
  if (ids.empty() || static_cast<int64_t>(ids.size()) > config.context) {
    fail(ErrorCode::unsupported, "{}: \"logits_of\" has {} tokens, expected 1 to {}, the context",
         at, ids.size(), config.context);
  }
  for (const int32_t id : ids) {
    if (id < config.vocabulary) continue;
    fail(ErrorCode::damaged, "{}: \"logits_of\" has token id {}, the vocabulary is {}", at, id,
         config.vocabulary);
  }
  lines_.push_back({Kind::logits, logits_.size(), 1});
  logits_.push_back(std::move(ids));
}

void RequestBatch::add_generation(const Json& object, const std::string& at,
                                  const ScoreModel& model) {
  GenerationRequest request;
  const Json& context = text_or_ids(object, "context", at);
  const Tokenizer& tokenizer = needed_tokenizer(model, at);
  request.context = context.is_array()
                        ? token_ids(context, "context", at)
                        : PromptEncoder(tokenizer).context(context.get<std::string>());
  request.max_tokens = json_int(object, "max_tokens", at);
  if (request.max_tokens < 0) {
    fail(ErrorCode::damaged, "{}: \"max_tokens\" is {}", at, request.max_tokens);
  }
  for (const Json& stop : object.value("until", Json::array())) {
    if (!stop.is_string() || stop.get<std::string>().empty()) {
      fail(ErrorCode::damaged, "{}: \"until\" has {}, expected texts that are not empty", at,
           json_text(stop));
    }
    request.stop.push_back(stop.get<std::string>());
  }
  lines_.push_back({Kind::generate, generations_.size(), 1});
  generations_.push_back(std::move(request));
}

void RequestBatch::add(const std::string& line, int64_t number, const ScoreModel& model) {
  const std::string at = fmt::format("{} line {}", where_, number);
  const Json object = json_line_fields(
      line, {"text", "context", "continuation", "max_tokens", "until", "logits_of"}, at);
  if (!object.is_object()) fail(ErrorCode::damaged, "{}: not a JSON object", at);
  if (object.contains("logits_of")) return add_logits(object, at, model);
  if (object.contains("max_tokens")) return add_generation(object, at, model);
  const size_t first = choices_.size();
  if (object.contains("text")) {
    const std::string text = json_string(object, "text", at);
    const PromptEncoder encoder(needed_tokenizer(model, at));
    std::vector<ChoiceRequest> windows = encoder.rolling_windows(text, model.store.config.context);
    if (windows.empty()) {
      fail(ErrorCode::unsupported, "{}: the text has no tokens: there is nothing to score", at);
    }
    for (ChoiceRequest& window : windows) {
      choices_.push_back(std::move(window));
    }
  } else if (object.contains("continuation")) {
    choices_.push_back(choice_request(object, at, model));
  } else {
    fail(ErrorCode::damaged,
         "{}: expected \"continuation\" or \"max_tokens\" beside \"context\", or \"text\", or "
         "\"logits_of\"",
         at);
  }
  lines_.push_back({Kind::score, first, choices_.size() - first});
}

at::Tensor RequestBatch::single_logits(const ScoreModel& model, const ScoreOptions& options) const {
  if (lines_.size() != 1 || lines_[0].kind != Kind::logits) {
    fail(ErrorCode::usage, "{}: expected one line with \"logits_of\"", where_);
  }
  return logits_of(logits_[0], model, options.tap);
}

std::vector<Json> RequestBatch::answer(const ScoreModel& model, const ScoreOptions& options) {
  const auto scores = score_choices(model.store, choices_, options);
  std::vector<GeneratedText> texts;
  if (!generations_.empty()) {
    texts = generate_greedy(model.store, *model.tokenizer, generations_, options);
  }
  std::vector<Json> answers;
  for (const Line& line : lines_) {
    if (line.kind == Kind::logits) {
      answers.push_back(logits_json(logits_of(logits_[line.first], model, options.tap)));
    } else if (line.kind == Kind::generate) {
      Json json;
      json["text"] = texts[line.first].text;
      json["tokens"] = texts[line.first].tokens;
      json["cut"] = texts[line.first].cut;
      answers.push_back(std::move(json));
    } else {
      answers.push_back(score_json(std::span(scores).subspan(line.first, line.count),
                                   std::span(choices_).subspan(line.first, line.count)));
    }
  }
  lines_.clear();
  choices_.clear();
  generations_.clear();
  logits_.clear();
  return answers;
}

}  // namespace osp
