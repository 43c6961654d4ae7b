// From texts to the token ids of requests, split as lm-eval splits them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "osp/tokenizer/tokenizer.h"

namespace osp {

struct EncodedPair {
  std::vector<int32_t> context, continuation;
};

// Where a text's trailing white space (Unicode) begins.
size_t trailing_space(std::string_view text);

// The tokens of context + continuation as a whole: those that the context has alone (as many, from
// the left) are the context, the others the continuation. White space at the context's end goes to
// the continuation. An empty context becomes context_start(); should the continuation begin with
// its token, that is the context.
EncodedPair encode_pair(const Tokenizer& tokenizer, const std::string& context,
                        const std::string& continuation);

// A text with the special tokens that the tokenizer puts around one; context_start() if that is
// nothing.
std::vector<int32_t> encode_context(const Tokenizer& tokenizer, const std::string& text);

// What stands for an empty context: what the tokenizer puts before a text (a begin-of-text token),
// or the end-of-document token. Error(unsupported) if it has neither.
std::vector<int32_t> context_start(const Tokenizer& tokenizer);

// A text in windows, each token scored once with as much context as fits: window i reads at most
// `length` tokens and scores those that the windows before did not.
std::vector<EncodedPair> rolling_windows(const Tokenizer& tokenizer, const std::string& text,
                                         int64_t length);

}  // namespace osp
