// The integer engine as a tap: whatever runs a model with this tap (perplexity, divergence, tasks,
// requests, generation) runs it in integers.
//
// Tested by tests/python/test_engine.py.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "osp/model/forward_engine.h"
#include "osp/model/tap.h"
#include "osp/runtime/engine.h"

namespace osp {

class IntegerForward : public Tap, public ForwardEngine {
 public:
  explicit IntegerForward(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

  Engine& integer_engine() { return *engine_; }

  bool wants(TapPoint, int64_t) const override { return false; }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return x; }
  ForwardEngine* engine() override { return this; }

  // Windows in chunks, or packed texts: a segment continues the pages of its context, which it
  // shares. With a cache the texts are kept until the next call with another cache.
  at::Tensor hidden(const at::Tensor& tokens_BT, const ForwardOptions& options) override;
  at::Tensor logits(const at::Tensor& hidden) override;
  std::unique_ptr<NextToken> reader(int64_t tokens) override;

 private:
  at::Tensor windows(const at::Tensor& tokens_BT);
  at::Tensor packed(const at::Tensor& tokens_1N, const ForwardOptions& options);

  std::unique_ptr<Engine> engine_;
  // Texts by the slot of their first own token, and the cache that they belong to.
  std::map<int64_t, KvSequence> texts_;
  const void* cache_ = nullptr;
};

}  // namespace osp
