// What the scheduler needs of a model: sequences, passes over some of their tokens, logits. `osp
// serve` gives it the integer engine; its tests a model without weights, so that threads can be
// watched without the tensor library.
//
// Tested by scheduler_test.cpp.
#pragma once

#include <cstdint>
#include <span>

#include "osp/runtime/kv_pages.h"

namespace osp {

// Calls come from one thread, but for new_sequence(), which any thread may call.
class TextModel {
 public:
  virtual ~TextModel() = default;
  virtual int64_t width() const = 0;
  virtual int64_t vocabulary() const = 0;

  virtual KvSequence new_sequence() const = 0;
  virtual int64_t pages_in_use() const = 0;
  // As Engine has them.
  virtual std::span<const float> read(std::span<const EngineRun> runs) = 0;
  virtual void logits(std::span<const float> states, std::span<float> out) = 0;
  // The most likely of the first `count` ids for one state with its logits.
  virtual int32_t greedy(std::span<const float> state, std::span<const float> logits,
                         int64_t count) = 0;
};

}  // namespace osp
