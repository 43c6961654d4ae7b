#include "osp/eval/prompt_encoder.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/eval/answer_text.h"

namespace osp {

PromptEncoder::PromptEncoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  const auto plain = tokenizer.encode("a");
  const auto special = tokenizer.encode("a", {.add_special_tokens = true});
  const auto text = std::search(special.begin(), special.end(), plain.begin(), plain.end());
  front_.assign(special.begin(), text);
}

std::vector<int32_t> PromptEncoder::with_front(const std::string& text) const {
  std::vector<int32_t> ids = front_;
  tokenizer_.encode_append(text, {}, ids);
  return ids;
}

std::vector<int32_t> PromptEncoder::context(const std::string& text) const {
  std::vector<int32_t> ids = with_front(text);
  if (!ids.empty()) return ids;
  if (tokenizer_.end_of_document() < 0) {
    fail(ErrorCode::unsupported,
         "a request has an empty context and the tokenizer has no end-of-document token to stand "
         "for it");
  }
  return {tokenizer_.end_of_document()};
}

std::vector<int32_t> PromptEncoder::continuation(const ChoiceRequest& request, bool empty_context,
                                                 const std::string& context,
                                                 const std::string& text) const {
  const std::vector<int32_t> whole = with_front(context + text);
  // The token of an empty context is no part of the whole, unless the tokenizer puts it in front.
  size_t begin = empty_context ? front_.size() : request.context.size();
  if (empty_context && begin < whole.size() && whole[begin] == request.context.back()) ++begin;
  const size_t last = whole.size() - (text.empty() || whole.empty() ? 0 : 1);
  return {whole.begin() + static_cast<ptrdiff_t>(std::min(begin, last)), whole.end()};
}

ChoiceRequest PromptEncoder::choices(const std::string& context,
                                     std::span<const std::string> continuations) const {
  const std::string begin = context.substr(0, context.size() - trailing_space_bytes(context));
  ChoiceRequest request{this->context(begin), {}};
  for (const std::string& text : continuations) {
    request.continuations.push_back(continuation(request, begin.empty(), context, text));
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
