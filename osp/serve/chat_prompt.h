// The text that a chat becomes for the model.
#pragma once

#include <string>

#include "osp/base/json.h"

namespace osp {

// The messages of a chat in the ChatML form, which is used where the model brings no template:
//
//   <|im_start|>ROLE\nCONTENT<|im_end|>\n … <|im_start|>assistant\n
//
// `template_text` is the model's own, "" for none. ApiError(400) naming the message for what cannot be
// rendered: another template, parts that are not text, roles of tools.
std::string render_messages(const std::string& template_text, const Json& messages);

}  // namespace osp
