// Chat templates: a list of messages as the text that a model was trained to continue. A template
// is a program in Jinja; osp runs the part of the language that chat templates use, with the
// settings of transformers (trim_blocks, lstrip_blocks, its tojson, raise_exception,
// strftime_now and {% generation %}). See docs/formats.md, "Chat templates".
//
// Errors name the line of the template:
//   Error(damaged)      the text is not a template
//   Error(unsupported)  a filter, test, statement, function or method that osp does not have, or
//                       more than the limits allow: nesting, steps, 16 MiB of text
//   Error(usage)        the template refuses these messages (raise_exception), or computes with
//                       values that do not fit, such as a message without content
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>

#include "osp/base/json.h"

namespace osp {

struct ChatOptions {
  std::string bos_token = {};
  std::string eos_token = {};
  bool add_generation_prompt = true;
  // More variables by name, an object; they replace those above and `tools` and `documents`, which
  // are none otherwise, as in transformers.
  Json variables = Json::object();
  std::optional<std::time_t> now = {};  // of strftime_now; the clock if absent
};

// A template that is parsed once. Rendering does not change it, and may run in several threads.
class ChatTemplate {
 public:
  explicit ChatTemplate(const std::string& text);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `messages` is an array of objects such as {"role": "user", "content": "Hello"}.
  std::string render(const Json& messages, const ChatOptions& options) const;

 private:
  struct Parsed;
  std::unique_ptr<const Parsed> parsed_;
};

std::string render_chat(const std::string& template_text, const Json& messages,
                        const ChatOptions& options);

}  // namespace osp
