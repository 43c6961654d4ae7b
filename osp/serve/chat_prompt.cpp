#include "osp/serve/chat_prompt.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/serve/api_error.h"

namespace osp {
namespace {

// Plain ChatML as templates write it, without white space and with one kind of quotes.
constexpr std::string_view kChatMl[] = {
    "{%formessageinmessages%}{{'<|im_start|>'+message['role']+'\\n'+message['content']+'<|im_end|>"
    "'+'\\n'}}{%endfor%}{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}",
    "{%formessageinmessages%}{{'<|im_start|>'+message['role']+'\\n'+message['content']+'<|im_end|>"
    "\\n'}}{%endfor%}{%ifadd_generation_prompt%}{{'<|im_start|>assistant\\n'}}{%endif%}",
};

bool is_chat_ml(const std::string& template_text) {
  std::string bare;
  for (const char c : template_text) {
    if (c != ' ' && c != '\n' && c != '\t' && c != '\r') bare += c == '"' ? '\'' : c;
  }
  return std::find(std::begin(kChatMl), std::end(kChatMl), bare) != std::end(kChatMl);
}

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

}  // namespace

std::string render_messages(const std::string& template_text, const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    throw ApiError(400, "messages is not a list with at least one message", "messages");
  }
  if (!template_text.empty() && !is_chat_ml(template_text)) {
    throw ApiError(
        400,
        "the model's chat template is not ChatML, which is the only one that this server "
        "renders; render the chat yourself and use /v1/completions",
        "messages", "unsupported_template");
  }
  std::string text;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    const std::string where = fmt::format("messages[{}]", i);
    if (!message.is_object() || !message.contains("role") || !message.contains("content")) {
      throw ApiError(400, where + " needs role and content", where);
    }
    if (message.contains("tool_calls") && !message["tool_calls"].empty()) {
      throw ApiError(400, where + ".tool_calls is not supported by this server", where,
                     "unsupported_parameter");
    }
    const Json& role = message["role"];
    const bool developer = role == Json("developer");  // the newer name of the same
    if (!developer && role != Json("system") && role != Json("user") && role != Json("assistant")) {
      throw ApiError(400, where + ".role is none of system, developer, user and assistant", where);
    }
    text += fmt::format("<|im_start|>{}\n{}<|im_end|>\n",
                        developer ? "system" : role.get<std::string>(),
                        content_text(message["content"], where));
  }
  return text + "<|im_start|>assistant\n";
}

}  // namespace osp
