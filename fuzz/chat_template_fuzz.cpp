// Feeds arbitrary bytes to the chat template interpreter as a template, with two conversations. An
// error is allowed; a crash, a hang or a different result the second time is not.
#include <cstdint>
#include <string>

#include "osp/base/error.h"
#include "osp/template/chat_template.h"
#include "osp/tokenizer/utf8.h"

namespace {

const osp::Json& conversation() {
  static const osp::Json messages = osp::parse_json(
      R"([{"role": "system", "content": " Be brief.\n"},
          {"role": "user", "content": [{"type": "text", "text": "H\u00e9"}, {"n": 1.5}]},
          {"role": "assistant", "content": null, "tool_calls": [{"arguments": {"a": [true, 2]}}]}])",
      "messages");
  return messages;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const osp::ChatOptions options{.bos_token = "<s>", .eos_token = "</s>", .now = 0};
  try {
    const osp::ChatTemplate chat_template(text);
    const std::string out = chat_template.render(conversation(), options);
    OSP_CHECK(osp::tokenizer::valid_utf8_prefix(out) == out.size(), "the output is not UTF-8");
    OSP_CHECK(chat_template.render(conversation(), options) == out, "another result");
    chat_template.render(osp::Json::array(), options);
  } catch (const osp::Error&) {
  }
  return 0;
}
