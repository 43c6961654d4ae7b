// Bodies of requests: defaults, what is refused and with which name, lengths, and chats as text.
#include "osp/serve/completion_request.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "osp/serve/api_error.h"
#include "osp/serve/service.h"

namespace osp {
namespace {

class Parsed : public testing::Test {
 protected:
  static Json body(const std::string& text) { return parse_json(text, "test"); }
  CompletionRequest completion(const std::string& text) const {
    return parse_completion(body(text), model_);
  }
  // "STATUS PARAM" of the error.
  template <class Parse>
  static std::string error_of(const Parse& parse) {
    try {
      parse();
    } catch (const ApiError& error) {
      return std::to_string(error.status) + " " + error.param;
    }
    return "none";
  }

  Tokenizer tokenizer_ = Tokenizer::from_file(OSP_SOURCE_DIR "/recipes/gcide-4096");
  ServedModel model_{
      .id = "m", .context = 100, .vocabulary = 4096, .drawable = 4096, .tokenizer = &tokenizer_};
};

TEST_F(Parsed, DefaultsAreThoseOfOpenAi) {
  const CompletionRequest request = completion(R"({"prompt": "The word", "stop": null})");
  EXPECT_EQ(request.prompts.size(), 1u);
  EXPECT_EQ(request.n, 1);
  EXPECT_EQ(request.most_tokens(request.prompts[0], 100), 16);
  EXPECT_EQ(request.sampling.temperature, 1);
  EXPECT_FALSE(request.logprobs || request.echo || request.stream);
}

TEST_F(Parsed, PromptsAreTextsOrIdsOneOrMany) {
  EXPECT_EQ(completion(R"({"prompt": [5, 6]})").prompts.size(), 1u);
  EXPECT_EQ(completion(R"({"prompt": ["a", "b"]})").prompts.size(), 2u);
  EXPECT_EQ(completion(R"({"prompt": [[5], [6, 7]]})").prompts[1].ids,
            (std::vector<int32_t>{6, 7}));
  for (const char* prompt : {"[]", "[[]]", "[4096]", "[-1]", "[1.5]", "[5, \"a\"]", "{}", "null"}) {
    EXPECT_EQ(error_of([&] { completion(std::string("{\"prompt\": ") + prompt + "}"); }),
              "400 prompt")
        << prompt;
  }
}

TEST_F(Parsed, APromptAndItsAnswerMustFitButForTheLastTokenWhichIsNotRead) {
  const auto with = [&](int64_t tokens, const std::string& more) {
    Json json;
    json["prompt"] = std::vector<int32_t>(static_cast<size_t>(tokens), 5);
    json.update(body(more));
    return parse_completion(json, model_);
  };
  EXPECT_EQ(error_of([&] { with(100, R"({"max_tokens": 1})"); }), "none");
  EXPECT_EQ(error_of([&] { with(100, R"({"max_tokens": 2})"); }), "400 prompt");
  EXPECT_EQ(error_of([&] { with(101, R"({"max_tokens": 0})"); }), "400 prompt");
  EXPECT_EQ(error_of([&] { with(1, R"({"max_tokens": 1099511627776})"); }), "400 prompt");
  // Without a wish the default is cut to what is left.
  const CompletionRequest request = with(95, "{}");
  EXPECT_EQ(request.most_tokens(request.prompts[0], 100), 6);
}

TEST_F(Parsed, UnknownParametersAreNamedAndThoseWithoutEffectAccepted) {
  EXPECT_EQ(error_of([&] { completion(R"({"prompt": "x", "topp": 1})"); }), "400 topp");
  EXPECT_EQ(error_of([&] { completion(R"({"prompt": "x", "user": "me", "topp": null})"); }),
            "none");
  EXPECT_EQ(error_of([&] { completion("[]"); }), "400 ");
  EXPECT_EQ(error_of([&] { completion(R"({"prompt": "x", "model": "n"})"); }), "404 model");
  // The last would be -1 as a signed integer.
  for (const char* bias : {"101", "-100.5", "1e308", "18446744073709551615"}) {
    const std::string text = fmt::format(R"({{"prompt": "x", "logit_bias": {{"1": {}}}}})", bias);
    EXPECT_EQ(error_of([&] { completion(text); }), "400 logit_bias") << bias;
  }
}

TEST_F(Parsed, LogprobsThatWouldNotFitInMemoryAreRefused) {
  // 2,048 texts of 1 token, each written 128 times: 262,144 choices.
  Json all;
  all["prompt"] = std::vector<std::vector<int32_t>>(2048, {5});
  all["n"] = 128;
  const auto with = [&](const std::string& more) {
    Json json = all;
    json.update(body(more));
    return error_of([&] { parse_completion(json, model_); });
  };
  EXPECT_EQ(with(R"({"max_tokens": 16})"), "none");
  EXPECT_EQ(with(R"({"max_tokens": 15, "logprobs": 0})"), "none");  // 3,932,160
  EXPECT_EQ(with(R"({"max_tokens": 16, "logprobs": 0})"), "400 logprobs");
  EXPECT_EQ(with(R"({"max_tokens": 8, "logprobs": 1})"), "400 logprobs");
  EXPECT_EQ(with(R"({"max_tokens": 14, "logprobs": 0, "echo": true})"), "none");
  EXPECT_EQ(with(R"({"max_tokens": 15, "logprobs": 0, "echo": true})"), "400 logprobs");
  // A chat's answer may take the whole context.
  Json chat = body(R"({"messages": [{"role": "user", "content": "a"}], "logprobs": true,
                       "top_logprobs": 20, "n": 128})");
  const ChatPrompt prompt;
  ServedModel model = model_;
  model.chat = &prompt;
  const auto error_at = [&](int64_t context) {
    model.context = context;
    return error_of([&] { parse_chat(chat, model); });
  };
  EXPECT_EQ(error_at(1400), "none");
  EXPECT_EQ(error_at(1600), "400 logprobs");
}

const char* kMessages =
    R"([{"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])";

TEST(ChatPrompt, WithoutATemplateIsChatMl) {
  EXPECT_EQ(ChatPrompt().render(parse_json(kMessages, "test")),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nab<|im_end|>\n"
            "<|im_start|>assistant\n");
}

TEST(ChatPrompt, RendersTheModelsOwnTemplateWithItsTokens) {
  const ChatPrompt prompt(
      "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}"
      "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
      {"<s>", "</s>"});
  EXPECT_EQ(prompt.render(parse_json(kMessages, "test")),
            "<s>[system] Be kind.</s>[user] ab</s>[assistant]");
}

// Status, name of the parameter and code for programs.
std::string refusal_of(const ChatPrompt& prompt, const Json& messages) {
  try {
    prompt.render(messages);
  } catch (const ApiError& error) {
    return fmt::format("{} {} {} {}", error.status, error.param, error.code, error.what());
  }
  return "none";
}

TEST(ChatPrompt, TemplatesThatRefuseOrCannotBeReadAreNamed) {
  const Json messages = parse_json(kMessages, "test");
  EXPECT_EQ(refusal_of(ChatPrompt("{{ raise_exception('no system here') }}"), messages),
            "400 messages  the model's chat template, line 1: the template refuses the messages: "
            "no system here");
  EXPECT_TRUE(refusal_of(ChatPrompt("{{ messages[0].content + 1 }}"), messages)
                  .starts_with("400 messages  "));
  for (const char* unreadable : {"{{ messages | reticulate }}", "{% if %}"}) {
    const std::string refusal = refusal_of(ChatPrompt(unreadable), messages);
    EXPECT_TRUE(refusal.starts_with("400 messages unsupported_template ")) << refusal;
  }
  // A message of a form that no template sees is named itself.
  EXPECT_TRUE(refusal_of(ChatPrompt(), parse_json(R"([{"role": "tool", "content": "x"}])", "test"))
                  .starts_with("400 messages[0] "));
}

TEST(IsAuthorized, WantsTheSchemeAndOneOfTheKeys) {
  const std::vector<std::string> keys{"one", "two"};
  for (const char* good : {"Bearer one", "bearer two"}) EXPECT_TRUE(is_authorized(good, keys));
  for (const char* bad :
       {"", "one", "Bearer", "Bearer ", "Bearer o", "Bearer onetwo", "Basic one"}) {
    EXPECT_FALSE(is_authorized(bad, keys)) << bad;
  }
}

}  // namespace
}  // namespace osp
