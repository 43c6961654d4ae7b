#include "osp/template/chat_template.h"

#include <gtest/gtest.h>

#include <string>

#include "osp/base/error.h"

namespace osp {
namespace {

const Json kMessages = Json::parse(
    R"([{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Où? \n"}])");

std::string render(const std::string& text, const ChatOptions& options = {}) {
  return render_chat(text, kMessages, options);
}

struct Failure {
  ErrorCode code;
  std::string message;
};

Failure failure_of(const std::string& text) {
  try {
    render(text);
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  ADD_FAILURE() << text << " was rendered";
  return {ErrorCode::io, ""};
}

void expect_failure(const std::string& text, ErrorCode code, const std::string& part) {
  const Failure failure = failure_of(text);
  EXPECT_EQ(failure.code, code) << failure.message;
  EXPECT_NE(failure.message.find(part), std::string::npos) << failure.message;
}

TEST(ChatTemplate, MessagesAndTokensAreVariables) {
  const std::string text =
      "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m.content | trim }}"
      "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  EXPECT_EQ(render(text, {.bos_token = "[", .eos_token = "]"}),
            "[<system>Be brief.]<user>Où?]<assistant>");
  EXPECT_EQ(render(text, {.eos_token = "]", .add_generation_prompt = false}),
            "<system>Be brief.]<user>Où?]");
}

TEST(ChatTemplate, VariablesReplaceTheUsualOnes) {
  ChatOptions options;
  options.variables =
      Json::parse(R"({"tools": [1], "enable_thinking": false, "b": {"z": 1, "a": 2}})");
  EXPECT_EQ(render("{{ tools }}{{ enable_thinking }}{{ b | tojson }}", options),
            "[1]False{\"z\": 1, \"a\": 2}");
  EXPECT_EQ(render("{{ tools is none }}{{ documents is none }}"), "TrueTrue");
}

TEST(ChatTemplate, RendersTheSameManyTimes) {
  const ChatTemplate chat_template("{% set x = namespace(n=0) %}{% set x.n = x.n + 1 %}{{ x.n }}");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(chat_template.render(kMessages, {}), "1");
}

TEST(ChatTemplate, LineEndsAndIndentationOfBlocksVanish) {
  EXPECT_EQ(render("a\n  {% if true %}\n  b\n  {% endif %}\nc\n"), "a\n  b\nc");
  EXPECT_EQ(render("a \n {%- if true -%} \n b {%+ endif +%}\nc"), "ab \nc");
  EXPECT_EQ(render(" {{- 1 -}} \n {# x #}\ny{% raw %} {{ z }} {% endraw %}"), "1y {{ z }} ");
}

TEST(ChatTemplate, WhatALoopSetsIsGoneAfterIt) {
  EXPECT_EQ(render("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = 5 %}{% endfor %}{{ x }}"),
            "111");
}

TEST(ChatTemplate, ConditionOfALoopSeesWhatTheLoopHasDone) {
  EXPECT_EQ(render("{% set n = namespace(stop=false) %}{% for i in range(5) if not n.stop %}{{ i }}"
                   "{% if i == 1 %}{% set n.stop = true %}{% endif %}{% endfor %}"),
            "01");
}

TEST(ChatTemplate, TheClockIsTheOneGiven) {
  ChatOptions options;
  options.now = 0;
  EXPECT_EQ(render("{{ strftime_now('%Y') | int in [1969, 1970] }}", options), "True");
}

TEST(ChatTemplate, UnknownPartsAreNamedWithTheirLine) {
  expect_failure("\n\n{{ 1 | frob }}", ErrorCode::unsupported,
                 "line 3: the filter frob is unknown");
  expect_failure("{{ 1 is frob }}", ErrorCode::unsupported, "the test frob is unknown");
  expect_failure("\n{% frob %}", ErrorCode::unsupported, "line 2: the statement frob is unknown");
  expect_failure("\n{{ frob(1) }}", ErrorCode::unsupported, "line 2: the function frob is unknown");
  expect_failure("{{ [].append(1) }}", ErrorCode::unsupported, "the method append of lists");
  expect_failure("{{ 'a'.zfill(1) }}", ErrorCode::unsupported, "the method zfill of texts");
  expect_failure("{{ '{:>4}'.format(1) }}", ErrorCode::unsupported, "the field {:>4} of format");
  expect_failure("{{ ('a' | safe).replace('a', 'b') }}", ErrorCode::unsupported, "marked by safe");
  // Inside an if, only where it is reached.
  const std::string branch = "{% if messages | length > 9 %}{{ 1 | frob }}{% endif %}";
  EXPECT_EQ(render(branch + "x"), "x");
  expect_failure("{% if true %}\n{{ 1 | frob }}{% endif %}", ErrorCode::unsupported,
                 "line 2: the filter frob is unknown");
  expect_failure("{% if true %}{{ 1 is frob }}{% endif %}", ErrorCode::unsupported,
                 "the test frob is unknown");
  expect_failure("{% for x in y recursive %}{% endfor %}", ErrorCode::unsupported, "recursive");
}

TEST(ChatTemplate, SyntaxErrorsAreDamage) {
  expect_failure("{{ 1", ErrorCode::damaged, "line 1");
  expect_failure("a\n{% if true %}\n", ErrorCode::damaged, "expected endif");
  expect_failure("{{ 1 + }}", ErrorCode::damaged, "found }}, expected an expression");
  expect_failure("{% endfor %}", ErrorCode::damaged, "without its beginning");
  expect_failure("{{ 'a }}", ErrorCode::damaged, "a string has no end");
  expect_failure("{{ (1] }}", ErrorCode::damaged, "unexpected ]");
  expect_failure("{# a", ErrorCode::damaged, "a comment has no end");
  expect_failure("\xFF", ErrorCode::damaged, "not UTF-8");
}

TEST(ChatTemplate, RefusalsOfTheTemplateAreErrorsOfUse) {
  expect_failure("\n{{ raise_exception('no ' ~ messages[0].role) }}", ErrorCode::usage,
                 "line 2: the template refuses the messages: no system");
  expect_failure("{{ messages[0].nothing + 'a' }}", ErrorCode::usage, "no member 'nothing'");
  expect_failure("{{ 1 + 'a' }}", ErrorCode::usage, "cannot add");
  expect_failure("{{ 1 // 0 }}", ErrorCode::usage, "division by zero");
}

TEST(ChatTemplate, HostileTemplatesEnd) {
  const std::string grow = "{% set n = namespace(x='ab') %}{% for i in range(99) %}";
  expect_failure(grow + "{% set n.x = n.x ~ n.x %}{% endfor %}", ErrorCode::unsupported, "16 MiB");
  expect_failure(grow + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}", ErrorCode::unsupported,
                 "does not allow");
  expect_failure(grow +
                     "{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}"
                     "{% endfor %}",
                 ErrorCode::unsupported, "steps");
  expect_failure("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ErrorCode::unsupported,
                 "macros inside each other");
  expect_failure("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}",
                 ErrorCode::unsupported, "nested too deeply");
  std::string chain = "{{ 1";
  for (int i = 0; i < 5000; ++i) chain += " + 1";
  expect_failure(chain + " }}", ErrorCode::unsupported, "too long");
  expect_failure("{{ 'a' * 99999999999 }}", ErrorCode::unsupported, "16 MiB");
  expect_failure("{{ [0] * 99999999999 }}", ErrorCode::unsupported, "1,000,000");
  expect_failure("{{ 9 ** 99 }}", ErrorCode::unsupported, "64 bits");
}

TEST(ChatTemplate, ValuesThatHoldEachOtherAreReleased) {
  EXPECT_EQ(render("{% set n = namespace() %}{% set n.me = [n] %}"
                   "{% for i in [1, 2] %}{% macro m() %}{{ i }}{% endmacro %}{% set n.m = m %}"
                   "{% set n.loop = loop %}{% endfor %}{{ n.m() }}{{ n.loop.index }}"),
            "23");
}

}  // namespace
}  // namespace osp
