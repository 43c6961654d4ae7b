#include "osp/serve/answer.h"

#include <atomic>
#include <ctime>
#include <deque>
#include <random>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/model/text_stream.h"
#include "osp/serve/api_error.h"
#include "osp/serve/logprobs_json.h"
#include "osp/serve/token_text.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

// A stream without news for so long gets a comment, so that nobody in between takes it for dead.
constexpr std::chrono::seconds kSilence{10};

std::string new_id(bool chat) {
  static const uint32_t process = std::random_device()();
  static std::atomic<uint64_t> count{0};
  return fmt::format("{}-{:08x}{:08x}", chat ? "chatcmpl" : "cmpl", process, ++count);
}

}  // namespace

// One text of the answer.
class Answer::Choice : public TextListener {
 public:
  Choice(std::shared_ptr<Answer> answer, size_t index)
      : answer_(std::move(answer)),
        request_(answer_->request_),
        tokenizer_(*answer_->model_.tokenizer),
        index_(index),
        prompt_(request_.prompts[index / static_cast<size_t>(request_.n)]),
        stream_(
            [this](std::span<const int32_t> ids) {
              return tokenizer::replace_invalid_utf8(tokenizer_.decode(ids, true));
            },
            prompt_.ids, request_.stop) {}

  bool wanted() override {
    if (answer_->reply_->gone() || answer_->failed_) return false;
    answer_->keep_alive();
    return true;
  }

  void on_prompt(std::span<const ScoredToken> tokens, int64_t cached_tokens) override {
    // Several answers to one prompt read it once.
    if (index_ % static_cast<size_t>(request_.n) == 0) {
      answer_->prompt_tokens_ += static_cast<int64_t>(prompt_.ids.size());
      answer_->cached_tokens_ += cached_tokens;
    }
    if (request_.chat && request_.stream) {
      show({{"delta", {{"role", "assistant"}, {"content", ""}}}}, nullptr);
    }
    if (!request_.echo) return;
    for (const ScoredToken& token : tokens) {
      pending_.push_back({token, places_.place(shown_bytes(tokenizer_, token.id))});
    }
    places_ = TokenPlaces(count_characters(prompt_.text));
    release(prompt_.text, true);
  }

  bool on_token(const ScoredToken& token, bool is_end) override {
    ++answer_->written_tokens_;
    // The end token is no part of the text; lm-eval counts on its place in the lists.
    const bool listed = request_.logprobs && !(is_end && request_.chat);
    if (listed) {
      const std::string bytes = is_end ? "" : shown_bytes(tokenizer_, token.id);
      pending_.push_back({token, places_.place(bytes)});
    }
    if (is_end) return true;
    release(stream_.add(token.id), false);
    return !stream_.stopped();
  }

  void on_end(TextEnd end) override {
    if (end != TextEnd::stopped) {
      const std::string rest = stream_.finish();
      // Tokens of a stop string are not shown.
      release(rest, !stream_.stopped());
    }
    const bool stopped = end != TextEnd::length || stream_.stopped();
    const char* reason = stopped ? "stop" : "length";
    if (request_.stream) {
      Json last = request_.chat ? Json{{"delta", Json::object()}} : Json{{"text", ""}};
      show(std::move(last), reason);
    } else {
      Json choice{{"index", index_}};
      if (request_.chat) {
        choice["message"] = {{"role", "assistant"}, {"content", text_}, {"refusal", nullptr}};
      } else {
        choice["text"] = text_;
      }
      choice["logprobs"] = logprobs(shown_);
      choice["finish_reason"] = reason;
      answer_->finished_[index_] = std::move(choice);
    }
    answer_->choice_ended();
  }

  void on_error(const std::string& message) override { answer_->fail_all(message); }

 private:
  Json logprobs(const std::vector<PlacedToken>& tokens) const {
    if (!request_.logprobs) return nullptr;
    return request_.chat ? chat_logprobs(tokens, tokenizer_)
                         : completion_logprobs(tokens, request_.alternatives, tokenizer_);
  }

  // Shows a piece of text with the tokens that begin in it, at the end all that are left.
  void release(const std::string& piece, bool all) {
    shown_characters_ += count_characters(piece);
    std::vector<PlacedToken> tokens;
    while (!pending_.empty() && (all || pending_.front().place < shown_characters_)) {
      tokens.push_back(std::move(pending_.front()));
      pending_.pop_front();
    }
    if (!request_.stream) {
      text_ += piece;
      std::move(tokens.begin(), tokens.end(), std::back_inserter(shown_));
      return;
    }
    if (piece.empty() && tokens.empty()) return;
    Json choice = request_.chat ? Json{{"delta", {{"content", piece}}}} : Json{{"text", piece}};
    choice["logprobs"] = logprobs(tokens);
    show(std::move(choice), nullptr);
  }

  void show(Json choice, const Json& reason) {
    if (!choice.contains("logprobs")) choice["logprobs"] = nullptr;
    choice["finish_reason"] = reason;
    answer_->send_chunk(index_, std::move(choice));
  }

  const std::shared_ptr<Answer> answer_;
  const CompletionRequest& request_;
  const Tokenizer& tokenizer_;
  const size_t index_;
  const Prompt& prompt_;
  TextStream stream_;
  TokenPlaces places_;
  std::deque<PlacedToken> pending_;  // begin in text that is held back
  std::vector<PlacedToken> shown_;
  int64_t shown_characters_ = 0;
  std::string text_;
};

Answer::Answer(CompletionRequest request, const ServedModel& model,
               std::shared_ptr<HttpReply> reply)
    : request_(std::move(request)),
      model_(model),
      reply_(std::move(reply)),
      id_(new_id(request_.chat)),
      created_(std::time(nullptr)) {
  left_ = request_.prompts.size() * static_cast<size_t>(request_.n);
  finished_.resize(left_);
}

Answer::~Answer() = default;

std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> Answer::texts() {
  std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> texts;
  for (size_t i = 0; i < left_; ++i) {
    const auto n = static_cast<size_t>(request_.n);
    const Prompt& prompt = request_.prompts[i / n];
    TextRequest text{.prompt = prompt.ids,
                     .max_tokens = request_.most_tokens(prompt, model_.context),
                     .sampling = request_.sampling,
                     .penalties = request_.penalties,
                     .seed = request_.seed,
                     .stream = i % n,
                     .logit_bias = request_.logit_bias,
                     .logprobs = request_.logprobs,
                     .prompt_logprobs = request_.logprobs && request_.echo,
                     .alternatives = request_.alternatives};
    texts.emplace_back(std::move(text), std::make_shared<Choice>(shared_from_this(), i));
  }
  return texts;
}

Json Answer::envelope(bool chunk) const {
  Json json;
  json["id"] = id_;
  json["object"] = !request_.chat ? "text_completion"
                   : chunk        ? "chat.completion.chunk"
                                  : "chat.completion";
  json["created"] = created_;
  json["model"] = model_.id;
  json["system_fingerprint"] = model_.fingerprint;
  return json;
}

Json Answer::usage() const {
  Json json;
  json["prompt_tokens"] = prompt_tokens_;
  json["completion_tokens"] = written_tokens_;
  json["total_tokens"] = prompt_tokens_ + written_tokens_;
  json["prompt_tokens_details"] = {{"cached_tokens", cached_tokens_}};
  return json;
}

void Answer::send_event(const Json& event) {
  if (!streaming_) {
    reply_->begin_stream({.type = "text/event-stream; charset=utf-8"});
    streaming_ = true;
  }
  reply_->write("data: " + json_text(event) + "\n\n");
  last_event_ = std::chrono::steady_clock::now();
}

void Answer::send_chunk(size_t index, Json choice) {
  if (failed_) return;
  Json event = envelope(true);
  Json indexed{{"index", index}};
  indexed.update(choice);
  event["choices"] = Json::array({std::move(indexed)});
  if (request_.include_usage) event["usage"] = nullptr;
  send_event(event);
}

void Answer::keep_alive() {
  const auto now = std::chrono::steady_clock::now();
  if (!request_.stream || now - last_event_ < kSilence) return;
  if (!streaming_) {
    reply_->begin_stream({.type = "text/event-stream; charset=utf-8"});
    streaming_ = true;
  }
  reply_->write(": the prompt is being read\n\n");
  last_event_ = now;
}

void Answer::choice_ended() {
  if (failed_ || --left_ > 0) return;
  if (!request_.stream) {
    Json json = envelope(false);
    json["choices"] = std::move(finished_);
    json["usage"] = usage();
    reply_->send(json_response(json));
    return;
  }
  if (request_.include_usage) {
    Json event = envelope(true);
    event["choices"] = Json::array();
    event["usage"] = usage();
    send_event(event);
  }
  reply_->write("data: [DONE]\n\n");
  reply_->finish();
}

void Answer::fail_all(const std::string& message) {
  if (failed_) return;
  failed_ = true;
  const ApiError error(500, message);
  if (!streaming_) return reply_->send(error_response(error));
  send_event(error_json(error));
  reply_->finish();
}

}  // namespace osp
