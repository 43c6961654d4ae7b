#include "osp/cli/prompt_options.h"

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/model/model_files.h"
#include "osp/serve/api_error.h"
#include "osp/serve/chat_prompt.h"

namespace osp {

void check_drawing(const CommonOptions& common, const GenerateOptions& options) {
  if (options.sampling.temperature != 0) return;
  refuse_given(common, {"top_k", "top_p", "min_p", "seed"},
               "is for drawing tokens, which needs a --temperature above 0");
}

std::string prompt_text(const PromptedModel& model, const PromptOptions& prompt) {
  if (!prompt.chat) return prompt.prompt;
  const auto message = [](const char* role, const std::string& content) {
    Json json;
    json["role"] = role;
    json["content"] = content;
    return json;
  };
  Json messages = Json::array();
  if (!prompt.system.empty()) messages.push_back(message("system", prompt.system));
  messages.push_back(message("user", prompt.prompt));
  try {
    return ChatPrompt(load_chat_template(model.dir), load_special_token_texts(model.dir))
        .render(messages);
  } catch (const ApiError& error) {
    fail(ErrorCode::unsupported, "--chat: {}", error.what());
  }
}

Generation continue_prompt(const PromptedModel& model, const PromptOptions& prompt,
                           const std::string& text, const GenerateOptions& options,
                           const std::function<void(std::string_view)>& on_text) {
  GenerateOptions complete = options;
  complete.end_tokens =
      prompt.chat ? chat_end_tokens(model.dir, model.tokenizer) : load_end_tokens(model.dir);
  complete.tap = model.loaded.tap.get();
  complete.rendered = prompt.chat;
  return generate(model.loaded.model.store, model.tokenizer, text, complete, on_text);
}

double tokens_per_second(const Generation& result) {
  const double seconds = result.seconds - result.prompt_seconds;
  return result.tokens.size() < 2 || seconds <= 0
             ? static_cast<double>(result.tokens.size()) / result.seconds
             : static_cast<double>(result.tokens.size() - 1) / seconds;
}

Json generation_json(const PromptedModel& model, const std::string& text,
                     const Generation& result) {
  Json json;
  // Bytes that are not UTF-8 become U+FFFD, as the tokenizer reads them.
  json["prompt"] = as_written(text);
  json["text"] = result.text;
  json["tokens"] = result.tokens;
  json["prompt_tokens"] = result.prompt_tokens;
  json["finish"] = result.finish;
  json["dropped_tokens"] = result.dropped;
  json["seconds"] = result.seconds;
  json["prompt_seconds"] = result.prompt_seconds;
  json["tokens_per_s"] = tokens_per_second(result);
  if (!model.loaded.engine_note.empty()) json["engine"] = model.loaded.engine_note;
  return json;
}

}  // namespace osp
