// osp generate: continues a prompt.
#include "osp/model/generate.h"

#include <unistd.h>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/model/model_dir.h"
#include "osp/model/model_files.h"
#include "osp/serve/api_error.h"
#include "osp/serve/chat_prompt.h"

namespace osp {
namespace {

struct GenerateCommand {
  CommonOptions common;
  std::string model;
  std::string prompt;
  bool chat = false;
  std::string system;
  std::string bits;
  GenerateOptions generate;
  EngineChoice engine = {.head = "8"};

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
    visit.group("Prompt");
    visit("prompt", self.prompt, "text to continue; an empty text starts a new document",
          {.required = true});
    visit("chat", self.chat,
          "answer the prompt as a message of a chat, written with the model's chat template");
    visit("system", self.system, "system message in front of the chat", {.needs = "chat"});
    visit_bits(visit, self.bits);
    GenerateOptions::fields(visit, self.generate);
    EngineChoice::fields(visit, self.engine);
    CommonOptions::fields(visit, self.common);
  }
};

// Writes a piece of text so that it is seen at once.
void stream_to_stdout(std::string_view piece) {
  write_stdout(piece);
  flush_stdout();
}

// Of the tokens behind the first, which the prompt's time gave.
double tokens_per_second(const Generation& result) {
  const double seconds = result.seconds - result.prompt_seconds;
  return result.tokens.size() < 2 || seconds <= 0
             ? static_cast<double>(result.tokens.size()) / result.seconds
             : static_cast<double>(result.tokens.size() - 1) / seconds;
}

// The chat of the options as text for the model.
std::string rendered_chat(const GenerateCommand& options, const std::string& dir) {
  const auto message = [](const char* role, const std::string& content) {
    Json json;
    json["role"] = role;
    json["content"] = content;
    return json;
  };
  Json messages = Json::array();
  if (!options.system.empty()) messages.push_back(message("system", options.system));
  messages.push_back(message("user", options.prompt));
  try {
    return ChatPrompt(load_chat_template(dir), load_special_token_texts(dir)).render(messages);
  } catch (const ApiError& error) {
    fail(ErrorCode::unsupported, "--chat: {}", error.what());
  }
}

int run(const GenerateCommand& options) {
  // Report a mistake before anything is read.
  check_bits(options.common, options.bits);
  if (options.generate.sampling.temperature == 0) {
    refuse_given(options.common, {"top_k", "top_p", "min_p", "seed"},
                 "is for drawing tokens, which needs a --temperature above 0");
  }
  const std::string dir = find_model_dir(options.model);
  check_engine_options(options.common, options.engine, is_quantized_model_dir(dir));
  const Tokenizer tokenizer = Tokenizer::from_file(dir);
  const auto loaded = load_model_at(dir, options.bits, options.engine);
  check_head_applies(options.common, *loaded);
  const ParameterStore& store = loaded->model.store;
  GenerateOptions generate_options = options.generate;
  generate_options.end_tokens =
      options.chat ? chat_end_tokens(dir, tokenizer) : load_end_tokens(dir);
  generate_options.tap = loaded->tap.get();
  generate_options.rendered = options.chat;
  const std::string prompt = options.chat ? rendered_chat(options, dir) : options.prompt;
  if (!options.common.json) {
    const Generation result =
        generate(store, tokenizer, prompt, generate_options, stream_to_stdout);
    stream_to_stdout("\n");
    Console(options.common.quiet)
        .line(
            "{} tokens in {:.2f} s, {:.1f} tokens/s after a prompt of {} in {:.2f} s; {}ended by "
            "{}{}",
            result.tokens.size(), result.seconds, tokens_per_second(result),
            result.prompt_tokens.size(), result.prompt_seconds,
            loaded->engine_note.empty() ? "" : loaded->engine_note + "; ", result.finish,
            result.dropped > 0 ? fmt::format("; the first {} tokens fell out of the context of {}",
                                             result.dropped, store.config.context)
                               : "");
    return 0;
  }
  const Generation result = generate(store, tokenizer, prompt, generate_options);
  Json json;
  // Bytes that are not UTF-8 become U+FFFD, as the tokenizer reads them.
  json["prompt"] = as_written(prompt);
  json["text"] = result.text;
  json["tokens"] = result.tokens;
  json["prompt_tokens"] = result.prompt_tokens;
  json["finish"] = result.finish;
  json["dropped_tokens"] = result.dropped;
  json["seconds"] = result.seconds;
  json["prompt_seconds"] = result.prompt_seconds;
  json["tokens_per_s"] = tokens_per_second(result);
  if (!loaded->engine_note.empty()) json["engine"] = loaded->engine_note;
  print_json(json);
  return 0;
}

}  // namespace

void add_generate(CommandLine& line) {
  line.command<GenerateCommand>("generate", "continue a prompt with a model", run);
}

}  // namespace osp
