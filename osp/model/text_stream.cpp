#include "osp/model/text_stream.h"

#include <algorithm>
#include <utility>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
// At most three bytes of a character can be there without the last one, so at most three trailing
// replacement characters can still change.
constexpr int kMaxUnsettled = 3;
// Tokens that are decoded together before the window moves on: bounds the work per token.
constexpr size_t kWindowTokens = 64;

// The text without trailing replacement characters that a next token may still complete.
std::string_view settled(std::string_view text) {
  for (int i = 0; i < kMaxUnsettled && text.ends_with(kReplacement); ++i) {
    text.remove_suffix(kReplacement.size());
  }
  return text;
}

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// Length of the common prefix, moved back to the start of a character.
size_t common_prefix(std::string_view a, std::string_view b) {
  size_t n = 0;
  while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
  while (n > 0 && n < b.size() && is_continuation(b[n])) --n;
  return n;
}

}  // namespace

TextStream::TextStream(Decode decode, std::span<const int32_t> prompt,
                       std::vector<std::string> stop)
    : decode_(std::move(decode)),
      stop_(std::move(stop)),
      window_(prompt.begin(), prompt.end()),
      whole_(prompt.size()) {
  for (const std::string& text : stop_) {
    if (text.empty()) fail(ErrorCode::usage, "a stop string is empty");
  }
  shown_ = decode_(window_);
}

std::string TextStream::add(int32_t token) {
  if (stopped_) return "";
  window_.push_back(token);
  const std::string text = decode_(window_);
  const std::string_view stable = settled(text);
  // A decoder may take back earlier text while a character is incomplete (byte fallback replaces
  // the whole run of byte tokens): wait until it agrees with what was shown.
  if (!stable.starts_with(shown_)) return "";
  const std::string piece(stable.substr(shown_.size()));
  shown_ = stable;
  if (stable.size() == text.size()) {
    // Settled: the next window begins with the tokens since the last such point, as context.
    if (window_.size() >= kWindowTokens) {
      window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(whole_));
      shown_ = decode_(window_);
    }
    whole_ = window_.size();
  }
  return release(piece, false);
}

std::string TextStream::finish() {
  if (stopped_) return "";
  const std::string text = decode_(window_);
  return release(std::string_view(text).substr(common_prefix(shown_, text)), true);
}

// Passes text on up to a stop string, holding back what may be the beginning of one.
std::string TextStream::release(std::string_view text, bool last) {
  held_ += text;
  size_t cut = std::string::npos;
  for (const std::string& stop : stop_) cut = std::min(cut, held_.find(stop));
  stopped_ = cut != std::string::npos;
  size_t keep = 0;  // bytes at the end that a stop string may begin with
  if (!stopped_ && !last) {
    for (const std::string& stop : stop_) {
      size_t n = std::min(stop.size() - 1, held_.size());
      while (n > keep && !held_.ends_with(std::string_view(stop).substr(0, n))) --n;
      keep = std::max(keep, n);
    }
  }
  std::string out = held_.substr(0, stopped_ ? cut : held_.size() - keep);
  held_.erase(0, stopped_ ? held_.size() : out.size());
  return out;
}

}  // namespace osp
