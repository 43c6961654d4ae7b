// A prompt and its continuation, as `osp generate` and the Python module give them.
//
// Tested by tests/python/test_generate.py and tests/python/test_py_engine.py.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "osp/base/json.h"
#include "osp/cli/command.h"
#include "osp/cli/loaded_model.h"
#include "osp/model/generate.h"

namespace osp {

struct PromptOptions {
  std::string prompt;
  bool chat = false;
  std::string system;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Prompt");
    visit("prompt", self.prompt, "text to continue; an empty text starts a new document",
          {.required = true});
    visit("chat", self.chat,
          "answer the prompt as a message of a chat, written with the model's chat template");
    visit("system", self.system, "system message in front of the chat", {.needs = "chat"});
  }
};

// A model that prompts are given to.
struct PromptedModel {
  const std::string& dir;
  const LoadedModel& loaded;
  const Tokenizer& tokenizer;
};

// Error(usage) for options of drawing that were given where the most likely token is taken.
void check_drawing(const CommonOptions& common, const GenerateOptions& options);

// The prompt as the model reads it: itself, or written with the chat template. Error(unsupported)
// for a template that cannot be used.
std::string prompt_text(const PromptedModel& model, const PromptOptions& prompt);

// Continues `text`, which prompt_text() gave.
Generation continue_prompt(const PromptedModel& model, const PromptOptions& prompt,
                           const std::string& text, const GenerateOptions& options,
                           const std::function<void(std::string_view)>& on_text = {});

// Tokens per second behind the first, which the prompt's time gave.
double tokens_per_second(const Generation& result);

// The JSON that `osp generate --json` prints (docs/formats.md).
Json generation_json(const PromptedModel& model, const std::string& text, const Generation& result);

}  // namespace osp
