// The integer engine as the scheduler's model.
#pragma once

#include "osp/runtime/engine.h"
#include "osp/serve/text_model.h"

namespace osp {

class EngineTextModel : public TextModel {
 public:
  // The engine must outlive it.
  explicit EngineTextModel(Engine& engine) : engine_(engine) {}

  int64_t width() const override { return engine_.config().width; }
  int64_t vocabulary() const override { return engine_.config().vocabulary; }
  KvSequence new_sequence() const override { return engine_.new_sequence(); }
  int64_t pages_in_use() const override { return engine_.pages().in_use(); }
  std::span<const float> read(std::span<const EngineRun> runs) override {
    return engine_.read(runs);
  }
  void logits(std::span<const float> states, std::span<float> out) override {
    engine_.logits(states, out);
  }
  int32_t greedy(std::span<const float> state, std::span<const float> logits,
                 int64_t count) override {
    return engine_.head().greedy(state, logits, count);
  }

 private:
  Engine& engine_;
};

}  // namespace osp
