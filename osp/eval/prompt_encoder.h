// Token ids of prompts and their continuations, for benchmark tasks and for `osp score`.
//
// A pair of context and continuation is split as lm-eval splits it:
//   1. White space at the end of the context moves to the continuation.
//   2. The context is encoded alone; context and continuation are encoded together as one text.
//   3. The continuation is what the second has beyond the length of the first. A continuation that
//      merges into the context's tokens keeps the last token of the whole.
// Special tokens that the tokenizer puts in front of a text (<s>) stand in front of the context;
// those at its end are omitted. An empty context becomes those front tokens, or the
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

  // One context with each of its continuations, split as above. An empty continuation stays empty
  // but for the white space that moves to it.
  ChoiceRequest choices(const std::string& context,
                        std::span<const std::string> continuations) const;

  // A text in windows: window i reads at most `length` tokens and scores those that the windows
  // before did not, so that each token is scored once with as much context as fits.
  std::vector<ChoiceRequest> rolling_windows(const std::string& text, int64_t length) const;

 private:
  std::vector<int32_t> with_front(const std::string& text) const;
  std::vector<int32_t> continuation(const ChoiceRequest& request, bool empty_context,
                                    const std::string& context, const std::string& text) const;

  const Tokenizer& tokenizer_;
  std::vector<int32_t> front_;  // special tokens in front of a text
};

}  // namespace osp
