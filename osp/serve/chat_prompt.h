// The text that a chat becomes for the model.
//
// Tested by completion_request_test.cpp.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/model_files.h"
#include "osp/template/chat_template.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// Renders chats by a model's own template, or, if it brings none, in the ChatML form:
//
//   <|im_start|>ROLE\nCONTENT<|im_end|>\n … <|im_start|>assistant\n
//
// Thread-safe after construction.
class ChatPrompt {
 public:
  // `template_text` is the model's own, "" for none. One that cannot be read (ChatTemplate) is
  // refused when a chat comes, for the model serves completions all the same.
  explicit ChatPrompt(const std::string& template_text = "", const SpecialTokenTexts& tokens = {});

  // `messages` as clients send them: roles system, developer (rendered as system), user and
  // assistant; content is a text, or parts of type "text", which are joined. ApiError(400) naming
  // the message that cannot be rendered, or with the template's own refusal.
  std::string render(const Json& messages) const;

 private:
  std::optional<ChatTemplate> template_;
  std::string unreadable_;  // why there is no template_
  ChatOptions options_;
};

// Tokens that end an answer: those of the model's configuration, the end of a document, and what
// chats end turns with.
std::vector<int64_t> chat_end_tokens(const std::string& model_dir, const Tokenizer& tokenizer);

}  // namespace osp
