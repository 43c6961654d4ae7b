// A limit on text that a tokenizer's components make from text. A few steps that each double what
// they get, or one long replacement, could otherwise fill any memory from a small file.
//
// Tested by osp/tokenizer/normalizer_test.cpp and osp/tokenizer/pretokenizer_test.cpp.
#pragma once

#include <cstddef>
#include <string>

#include "osp/base/error.h"

namespace osp::tokenizer {

// Counts the bytes made from one input: at most 64 times the input and 1 MiB (known tokenizers stay
// below 6 times).
class Growth {
 public:
  explicit Growth(size_t input_bytes) : limit_(64 * input_bytes + (size_t{1} << 20)) {}

  // Error(unsupported) naming the component `where` if `bytes` more would be too many.
  void check(size_t bytes, const std::string& where) const {
    if (bytes > limit_ - made_) {
      fail(ErrorCode::unsupported,
           "{}: makes the text too long (more than 64 times what is encoded or decoded, and 1 MiB)",
           where);
    }
  }
  void add(size_t bytes, const std::string& where) {
    check(bytes, where);
    made_ += bytes;
  }

 private:
  size_t limit_;
  size_t made_ = 0;
};

}  // namespace osp::tokenizer
