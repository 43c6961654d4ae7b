// From generated tokens to a stream of text: pieces end at UTF-8 boundaries, never show a character
// whose last bytes are still missing, and stop before a stop string.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace osp {

class TextStream {
 public:
  using Decode = std::function<std::string(std::span<const int32_t>)>;

  // `decode` gives the text of a run of tokens, with U+FFFD for incomplete characters. The text of
  // `prompt` is context only (a tokenizer may spell a token differently at the start of a text).
  // Error(usage) for an empty stop string.
  TextStream(Decode decode, std::span<const int32_t> prompt, std::vector<std::string> stop);

  // Takes one token and returns the text that is certain now, often "".
  std::string add(int32_t token);
  // The rest, once no token follows.
  std::string finish();
  // True once a stop string was met; the text ends before it.
  bool stopped() const { return stopped_; }

 private:
  std::string release(std::string_view text, bool last);

  Decode decode_;
  std::vector<std::string> stop_;
  std::vector<int32_t> window_;  // the newest tokens, decoded together
  size_t whole_ = 0;             // of these, tokens whose text is settled
  std::string shown_;            // text of window_ that has been handed on
  std::string held_;             // handed on, but perhaps the beginning of a stop string
  bool stopped_ = false;
};

}  // namespace osp
