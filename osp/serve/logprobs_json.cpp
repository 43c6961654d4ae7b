#include "osp/serve/logprobs_json.h"

#include "osp/serve/token_text.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

Json chat_token(int32_t id, double logprob, const Tokenizer& tokenizer) {
  const std::string bytes = tokenizer.token_text(id);
  Json json;
  json["token"] = tokenizer::replace_invalid_utf8(bytes);
  json["logprob"] = logprob;
  json["bytes"] = Json::array();
  for (const char c : bytes) json["bytes"].push_back(static_cast<unsigned char>(c));
  return json;
}

}  // namespace

Json completion_logprobs(const std::vector<PlacedToken>& tokens, int64_t alternatives,
                         const Tokenizer& tokenizer) {
  Json json;
  for (const char* key : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) {
    json[key] = Json::array();
  }
  for (const auto& [token, place] : tokens) {
    const std::string name = token_name(tokenizer, token.id);
    json["tokens"].push_back(name);
    json["token_logprobs"].push_back(token.scored ? Json(token.logprob) : Json());
    Json top = Json::object();
    for (const auto& [id, logprob] : token.alternatives) {
      const std::string other = token_name(tokenizer, id);
      if (!top.contains(other)) top[other] = logprob;
    }
    if (!top.contains(name)) top[name] = token.logprob;
    json["top_logprobs"].push_back(token.scored ? top : Json());
    json["text_offset"].push_back(place);
  }
  if (alternatives == 0) json["top_logprobs"] = nullptr;
  return json;
}

Json chat_logprobs(const std::vector<PlacedToken>& tokens, const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const auto& [token, place] : tokens) {
    Json entry = chat_token(token.id, token.logprob, tokenizer);
    entry["top_logprobs"] = Json::array();
    for (const auto& [id, logprob] : token.alternatives) {
      entry["top_logprobs"].push_back(chat_token(id, logprob, tokenizer));
    }
    content.push_back(std::move(entry));
  }
  return Json{{"content", std::move(content)}, {"refusal", nullptr}};
}

}  // namespace osp
