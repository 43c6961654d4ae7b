#include "osp/serve/chat_prompt.h"

#include "osp/base/error.h"
#include "osp/serve/api_error.h"

namespace osp {
namespace {

constexpr const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' }}{% endfor %}{{ '<|im_start|>assistant\\n' }}";

std::string content_text(const Json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    throw ApiError(400, where + ".content is neither a text nor a list of parts", where);
  }
  std::string text;
  for (const Json& part : content) {
    const bool is_text = part.is_object() && part.value("type", Json()) == Json("text") &&
                         part.contains("text") && part["text"].is_string();
    if (!is_text) {
      throw ApiError(400,
                     where + ".content has a part that is not text; this model reads text alone",
                     where, "unsupported_content");
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

// {"role", "content"} as templates know them.
Json plain_message(const Json& message, const std::string& where) {
  if (!message.is_object() || !message.contains("role") || !message.contains("content")) {
    throw ApiError(400, where + " needs role and content", where);
  }
  if (message.contains("tool_calls") && !message["tool_calls"].empty()) {
    throw ApiError(400, where + ".tool_calls is not supported by this server", where,
                   "unsupported_parameter");
  }
  Json role = message["role"];
  if (role == Json("developer")) role = "system";  // the newer name of the same
  if (role != Json("system") && role != Json("user") && role != Json("assistant")) {
    throw ApiError(400, where + ".role is none of system, developer, user and assistant", where);
  }
  Json plain;
  plain["role"] = std::move(role);
  plain["content"] = content_text(message["content"], where);
  return plain;
}

}  // namespace

ChatPrompt::ChatPrompt(const std::string& template_text, const SpecialTokenTexts& tokens) {
  options_.bos_token = tokens.begin;
  options_.eos_token = tokens.end;
  try {
    template_.emplace(template_text.empty() ? kChatMl : template_text);
  } catch (const Error& error) {
    unreadable_ = error.what();
  }
}

std::string ChatPrompt::render(const Json& messages) const {
  if (!messages.is_array() || messages.empty()) {
    throw ApiError(400, "messages is not a list with at least one message", "messages");
  }
  Json plain = Json::array();
  for (size_t i = 0; i < messages.size(); ++i) {
    plain.push_back(plain_message(messages[i], fmt::format("messages[{}]", i)));
  }
  if (!template_) {
    throw ApiError(400,
                   "this server cannot read the model's template (" + unreadable_ +
                       "); render the chat yourself and use /v1/completions",
                   "messages", "unsupported_template");
  }
  try {
    return template_->render(plain, options_);
  } catch (const Error& error) {
    const bool refused = error.code() == ErrorCode::usage;
    throw ApiError(400, std::string("the model's ") + error.what(), "messages",
                   refused ? "" : "unsupported_template");
  }
}

std::vector<int64_t> chat_end_tokens(const std::string& model_dir, const Tokenizer& tokenizer) {
  std::vector<int64_t> ends = load_end_tokens(model_dir);
  for (const int32_t id : {tokenizer.end_of_document(), tokenizer.token_id("<|im_end|>"),
                           tokenizer.token_id(load_special_token_texts(model_dir).end)}) {
    if (id >= 0) ends.push_back(id);
  }
  return ends;
}

}  // namespace osp
