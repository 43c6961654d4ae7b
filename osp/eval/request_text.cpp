#include "osp/eval/request_text.h"

#include <algorithm>
#include <array>

#include "osp/base/error.h"

namespace osp {
namespace {

// UTF-8 of the white space of Unicode (what Python's str.rstrip takes away), but for U+2000 …
// U+200A.
constexpr std::array<std::string_view, 18> kSpaces = {
    "\t",           "\n",           "\v",           "\f",           "\r",
    "\x1c",         "\x1d",         "\x1e",         "\x1f",         " ",
    "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\xa8", "\xe2\x80\xa9",
    "\xe2\x80\xaf", "\xe2\x81\x9f", "\xe3\x80\x80"};

// Bytes of the white space character at the end of a text, 0 if there is none.
size_t last_space(std::string_view text) {
  for (const std::string_view space : kSpaces) {
    if (text.ends_with(space)) return space.size();
  }
  if (text.size() < 3 || text.substr(text.size() - 3, 2) != "\xe2\x80") return 0;
  const auto last = static_cast<unsigned char>(text.back());
  return last >= 0x80 && last <= 0x8a ? 3 : 0;
}

}  // namespace

size_t trailing_space(std::string_view text) {
  while (const size_t length = last_space(text)) text.remove_suffix(length);
  return text.size();
}

std::vector<int32_t> context_start(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.encode("", {.add_special_tokens = true});
  if (!ids.empty()) return {ids.front()};
  if (tokenizer.end_of_document() < 0) {
    fail(ErrorCode::unsupported,
         "a request has an empty context and the tokenizer has no end-of-document token to stand "
         "for it");
  }
  return {tokenizer.end_of_document()};
}

std::vector<int32_t> encode_context(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids = tokenizer.encode(text, {.add_special_tokens = true});
  return ids.empty() ? context_start(tokenizer) : ids;
}

EncodedPair encode_pair(const Tokenizer& tokenizer, const std::string& context,
                        const std::string& continuation) {
  const size_t end = trailing_space(context);
  if (end == 0) {
    EncodedPair pair{context_start(tokenizer), tokenizer.encode(context + continuation)};
    if (!pair.continuation.empty() && pair.continuation.front() == pair.context.front()) {
      pair.continuation.erase(pair.continuation.begin());
    }
    return pair;
  }
  const EncodeOptions special{.add_special_tokens = true};
  const std::vector<int32_t> whole = tokenizer.encode(context + continuation, special);
  std::vector<int32_t> ids = tokenizer.encode(context.substr(0, end), special);
  const auto split = static_cast<int64_t>(std::min(ids.size(), whole.size()));
  std::vector<int32_t> rest(whole.begin() + split, whole.end());
  return {std::move(ids), std::move(rest)};
}

std::vector<EncodedPair> rolling_windows(const Tokenizer& tokenizer, const std::string& text,
                                         int64_t length) {
  OSP_CHECK(length > 0, "windows of {} tokens", length);
  std::vector<int32_t> ids = context_start(tokenizer);  // token i is predicted from those before
  const std::vector<int32_t> encoded = tokenizer.encode(text, {.add_special_tokens = true});
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  std::vector<EncodedPair> windows;
  const int64_t total = static_cast<int64_t>(ids.size());
  for (int64_t next = 1; next < total;) {
    const int64_t end = std::min(next + length, total);
    const auto first = ids.begin() + std::max<int64_t>(0, end - length - 1);
    windows.push_back({{first, ids.begin() + next}, {ids.begin() + next, ids.begin() + end}});
    next = end;
  }
  return windows;
}

}  // namespace osp
