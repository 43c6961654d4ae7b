// A model that reads a text token by token: what generation and serving need of it.
//
// Tested by tests/python/test_generate.py and tests/python/test_engine.py.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace osp {

class NextToken {
 public:
  virtual ~NextToken() = default;
  // Forgets all tokens.
  virtual void clear() = 0;
  // Reads tokens (at least one) after those before. The result are the logits after the last of
  // them, [vocabulary], valid until the next call.
  virtual std::span<const float> read(std::span<const int32_t> ids) = 0;
  // The most likely of the first `count` ids after the last token that was read, the first among
  // equals; by logits of higher precision than those of read() where the model has them.
  virtual int32_t greedy(int64_t count) = 0;
  // Tokens read since clear().
  virtual int64_t length() const = 0;
  // Tokens that it can hold, where it has a limit below the model's context.
  virtual int64_t most_tokens() const { return std::numeric_limits<int64_t>::max(); }
};

}  // namespace osp
