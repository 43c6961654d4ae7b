// Something that computes the whole forward pass in place of the operators of osp/ops: the integer
// engine of quantized models (osp/runtime). A tap that has one (Tap::engine) hands it to whatever
// runs the model with that tap, so that every measurement works with both.
//
// Tested by tests/python/test_engine.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

#include "osp/model/next_token.h"

namespace osp {

struct ForwardOptions;
class Tap;

class ForwardEngine {
 public:
  virtual ~ForwardEngine() = default;
  // forward_hidden: final states [B, T, D] of tokens [B, T], or of packed tokens [1, N] where the
  // options have segments.
  virtual at::Tensor hidden(const at::Tensor& tokens_BT, const ForwardOptions& options) = 0;
  // logits_of_hidden: fp32 [.., V].
  virtual at::Tensor logits(const at::Tensor& hidden) = 0;
  // For texts of up to `tokens` tokens; Error(memory) if this machine cannot hold one.
  virtual std::unique_ptr<NextToken> reader(int64_t tokens) = 0;

  // forward_loss_sum of final states [N, D]: Σ −log p(target) · scale over rows whose target is not
  // negative, fp64.
  at::Tensor loss_sum(const at::Tensor& hidden_ND, const at::Tensor& targets, double scale);
};

// That of the tap; nullptr without one.
ForwardEngine* engine_of(Tap* tap);

}  // namespace osp
