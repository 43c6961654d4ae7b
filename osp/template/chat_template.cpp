#include "osp/template/chat_template.h"

#include "osp/template/context.h"
#include "osp/template/interpreter.h"
#include "osp/template/parser.h"

namespace osp {

struct ChatTemplate::Parsed {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(const std::string& text)
    : parsed_(std::make_unique<Parsed>(Parsed{jinja::parse_template(text)})) {}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const Json& messages, const ChatOptions& options) const {
  jinja::Context context;
  context.now = options.now;
  // The variables are a scope around the template's own names.
  const auto globals = context.scope(nullptr);
  globals->set("messages", context.from_json(messages));
  globals->set("tools", jinja::Value::none());
  globals->set("documents", jinja::Value::none());
  globals->set("bos_token", context.from_json(options.bos_token));
  globals->set("eos_token", context.from_json(options.eos_token));
  globals->set("add_generation_prompt", jinja::Value::boolean(options.add_generation_prompt));
  for (const auto& [name, value] : options.variables.items()) {
    globals->set(name, context.from_json(value));
  }
  const auto scope = context.scope(globals);
  context.keep(scope);
  jinja::Interpreter interpreter(context, scope);
  return interpreter.run(parsed_->body);
}

std::string render_chat(const std::string& template_text, const Json& messages,
                        const ChatOptions& options) {
  return ChatTemplate(template_text).render(messages, options);
}

}  // namespace osp
