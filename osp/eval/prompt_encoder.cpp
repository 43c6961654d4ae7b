#include "osp/eval/prompt_encoder.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/eval/answer_text.h"

namespace osp {

PromptEncoder::PromptEncoder(const Tokenizer& tokenizer)
    : tokenizer_(tokenizer), front_(tokenizer.front_tokens()) {}

std::vector<int32_t> PromptEncoder::with_front(const std::string& text) const {
  std::vector<int32_t> ids = front_;
  tokenizer_.encode_append(text, {}, ids);
  return ids;
}

std::vector<int32_t> PromptEncoder::context(const std::string& text) const {
  std::vector<int32_t> ids = tokenizer_.encode_prompt(text);
  if (ids.empty()) {
    fail(ErrorCode::unsupported,
         "a request has an empty context and the tokenizer has no end-of-document token to stand "
         "for it");
  }
  return ids;
}

void PromptEncoder::add_choice(const std::string& context, bool empty_context,
                               const std::string& text, ChoiceRequest& request) const {
  const std::vector<int32_t> whole = with_front(context + text);
  size_t begin = empty_context ? front_.size() : request.context.size();
  if (whole.size() <= front_.size() || (text.empty() && begin >= whole.size())) {
    fail(ErrorCode::unsupported, "the continuation {} has no tokens: there is nothing to score",
         Json(text).dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 80));
  }
  // The token of an empty context is no part of the whole, unless the tokenizer puts it in front.
  if (empty_context && begin + 1 < whole.size() && whole[begin] == request.context.back()) ++begin;
  request.own_contexts.emplace_back();
  if (begin >= whole.size()) {  // merged into the context
    const auto differs = std::ranges::mismatch(request.context, whole).in2;
    begin =
        std::clamp(static_cast<size_t>(differs - whole.begin()), front_.size(), whole.size() - 1);
    request.own_contexts.back().assign(whole.begin(),
                                       whole.begin() + static_cast<ptrdiff_t>(begin));
    if (begin == 0) request.own_contexts.back() = this->context("");
  }
  request.continuations.emplace_back(whole.begin() + static_cast<ptrdiff_t>(begin), whole.end());
}

ChoiceRequest PromptEncoder::choices(const std::string& context,
                                     std::span<const std::string> continuations) const {
  const std::string begin = context.substr(0, context.size() - trailing_space_bytes(context));
  ChoiceRequest request{this->context(begin), {}};
  for (const std::string& text : continuations) {
    add_choice(context, begin.empty(), text, request);
  }
  return request;
}

std::vector<ChoiceRequest> PromptEncoder::rolling_windows(const std::string& text,
                                                          int64_t length) const {
  OSP_CHECK(length > 0, "windows of {} tokens", length);
  // Token i is predicted from those before; one stands in front of the first.
  std::vector<int32_t> ids = {context("").front()};
  const std::vector<int32_t> encoded = with_front(text);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  std::vector<ChoiceRequest> windows;
  const int64_t total = static_cast<int64_t>(ids.size());
  for (int64_t next = 1; next < total;) {
    const int64_t end = std::min(next + length, total);
    const auto first = ids.begin() + std::max<int64_t>(0, end - length - 1);
    ChoiceRequest window{{first, ids.begin() + next}, {}};
    window.continuations.emplace_back(ids.begin() + next, ids.begin() + end);
    windows.push_back(std::move(window));
    next = end;
  }
  return windows;
}

}  // namespace osp
