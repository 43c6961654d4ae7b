// Feeds arbitrary bytes to the chat template interpreter as a template, with two conversations. An
// error is allowed; a crash, a hang or a different result the second time is not.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/mutator.h"
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

using osp::fuzz::Dice;

std::string expression(Dice& dice, int depth) {
  static const std::string kAtoms[] = {
      "messages", "messages[0]", "m.role", "a",    "b",    "'x'",       "'\xC3\xA9 \\n'", "\"y\"",
      "0",        "1",           "-3",     "2.5",  "none", "true",      "[1, 'b']",       "()",
      "{'k': 1}", "bos_token",   "loop",   "f(1)", "n.x",  "undefined", "range(3)",       "''"};
  static const std::string kOperators[] = {"+",  "-",  "*", "//", "/",  "%",  "**",  "~",     "==",
                                           "!=", "<=", ">", "in", "is", "or", "and", "not in"};
  static const std::string kEndings[] = {
      "|trim",       "|length",  "|tojson",        "|string",     "|list",       "|first",
      "|join(',')",  "|lower",   "|default('d')",  "|int",        "|float",      "|sort",
      "|dictsort",   "|items",   "|reverse",       "|capitalize", "|indent(2)",  "|unique",
      "|map('abs')", "|sum",     "|batch(2)",      "|safe",       "|abs",        "|round(1)",
      " is string",  " is none", " is not in [1]", " is defined", " is mapping", " is odd",
      ".items()",    ".upper()", ".split()",       ".strip('x')", ".get('k')",   ".role",
      "[0]",         "[-1]",     "[::-1]",         "[1:]",        "['k']",       ".keys()|list"};
  if (depth == 0 || dice.one_in(3)) return dice.one_of(kAtoms);
  const std::string first = expression(dice, depth - 1);
  if (dice.one_in(2)) return "(" + first + ")" + dice.one_of(kEndings);
  const std::string second = expression(dice, depth - 1);
  if (dice.one_in(6)) return first + " if " + second + " else 'e'";
  if (dice.one_in(6)) return "[" + first + ", " + second + "]";
  return "(" + first + " " + dice.one_of(kOperators) + " " + second + ")";
}

std::string statement(Dice& dice, int depth) {
  const auto value = [&] { return expression(dice, 2); };
  const auto body = [&] {
    return depth > 0 ? statement(dice, depth - 1) : dice.one_in(2) ? "t" : "";
  };
  switch (dice.below(9)) {
    case 0:
      return "{% if " + value() + " %}" + body() + "{%- else -%} " + body() + "{% endif %}\n";
    case 1:
      return "{% for a in " + value() + " %}" + body() + "{% endfor %}";
    case 2:
      return "{%- for a, b in " + value() + " if a %}" + body() + "{% else %}o{% endfor -%}\n";
    case 3:
      return "{% set a = " + value() + " %}" + body();
    case 4:
      return "{% set n = namespace(x=" + value() + ") %}{% set n.x = " + value() + " %}";
    case 5:
      return "{% macro f(a, b=" + value() + ") %}" + body() + "{% endmacro %}";
    case 6:
      return "{% set a %}" + body() + "{% endset %}{# " + body() + "#}";
    default:
      return "{{ " + value() + " }}" + body();
  }
}

// Puts a statement between others, or changes what is there.
std::string mutated(std::string_view text, Dice& dice) {
  if (dice.one_in(4)) return osp::fuzz::changed_bytes(std::string(text), dice);
  std::vector<size_t> places = {0, text.size()};
  for (size_t i = 2; i < text.size(); ++i) {
    const std::string_view end = text.substr(i - 2, 2);
    if (end == "%}" || end == "}}") places.push_back(i);
  }
  return std::string(text).insert(dice.one_of(places), statement(dice, 2));
}

}  // namespace

OSP_MUTATOR(mutated)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const osp::ChatOptions options{.bos_token = "<s>", .eos_token = "</s>", .now = 0};
  try {
    const osp::ChatTemplate chat_template(text);
    const std::string out = chat_template.render(conversation(), options);
    osp::fuzz::accepted(data, size);
    OSP_CHECK(osp::tokenizer::valid_utf8_prefix(out) == out.size(), "the output is not UTF-8");
    OSP_CHECK(chat_template.render(conversation(), options) == out, "another result");
    chat_template.render(osp::Json::array(), options);
  } catch (const osp::Error&) {
  }
  return 0;
}
