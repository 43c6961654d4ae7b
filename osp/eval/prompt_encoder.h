// Token ids of prompts and their continuations, for benchmark tasks and for `osp score`.
//
// A pair of context and continuation is split as lm-eval splits it:
//   1. White space at the end of the context moves to the continuation.
//   2. The context is encoded alone; context and continuation are encoded together as one text.
//   3. The continuation is what the second has beyond the length of the first. Where that is
//      nothing (it merged into the last tokens of the context) the context ends where both begin to
//      differ, or a token earlier if they do not, and the continuation is the rest of the second.
// Special tokens that the tokenizer puts in front of a text (<s>) stand in front of the context;
// those at its end (</s>) belong to no prompt. An empty context becomes those front tokens, or the
// end-of-document token where there are none.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "osp/eval/request_scorer.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

// The tokenizer must outlive the encoder. Ids are checked against the model's vocabulary later, by
// score_choices and generate_greedy. Error(unsupported) where a context is empty and the tokenizer
// has no token to stand for it.
class PromptEncoder {
 public:
  explicit PromptEncoder(const Tokenizer& tokenizer);

  // A text to continue, never empty.
  std::vector<int32_t> context(const std::string& text) const;

  // One context with each of its continuations, split as above. Error(unsupported) for a
  // continuation without a token: it would have the likelihood 1 whatever the model is.
  ChoiceRequest choices(const std::string& context,
                        std::span<const std::string> continuations) const;

  // A text in windows: window i reads at most `length` tokens and scores those that the windows
  // before did not, so that each token is scored once with as much context as fits.
  std::vector<ChoiceRequest> rolling_windows(const std::string& text, int64_t length) const;

 private:
  std::vector<int32_t> with_front(const std::string& text) const;
  void add_choice(const std::string& context, bool empty_context, const std::string& text,
                  ChoiceRequest& request) const;

  const Tokenizer& tokenizer_;
  std::vector<int32_t> front_;  // special tokens in front of a text
};

}  // namespace osp
