// Renders chat templates from stdin, so that tests can compare with jinja2. A line is a JSON object
// {"template": text, "messages": […], "variables": {…}, "now": seconds}; the answer is a line
// {"text": …} or {"error": message, "code": osp's exit status, "unsupported": true or false}.
#include <iostream>
#include <string>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/template/chat_template.h"

namespace {

osp::Json answer(const osp::Json& request) {
  osp::ChatOptions options;
  options.variables = request["variables"];
  if (request.contains("now")) options.now = request["now"].get<std::time_t>();
  try {
    const osp::ChatTemplate chat_template(request["template"].get<std::string>());
    return {{"text", chat_template.render(request["messages"], options)}};
  } catch (const osp::Error& e) {
    return {{"error", e.what()},
            {"code", osp::exit_status(e.code())},
            {"unsupported", e.code() == osp::ErrorCode::unsupported}};
  }
}

}  // namespace

int main() {
  std::ios::sync_with_stdio(false);
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << answer(osp::parse_json(line, "stdin", 1000)).dump() << '\n';
  }
  return 0;
}
