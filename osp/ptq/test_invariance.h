// For tests only: how far a transform moved the logits of a whole model.
#pragma once

#include "osp/model/transformer.h"
#include "osp/ops/hadamard.h"
#include "osp/ptq/rotation_check.h"

namespace osp {

// Remembers the logits of a model on a few tokens and compares those of changed copies.
class InvarianceCheck {
 public:
  InvarianceCheck(const ParameterStore& store, const at::Tensor& tokens_BT)
      : tokens_BT_(tokens_BT), logits_(forward_logits(store, tokens_BT)) {}

  // max |new − old| / max |old| of `store` with the online transforms; R3 is tried where keys have
  // a Hadamard matrix.
  double change(const ParameterStore& store, OnlineTransforms online = {}) const {
    online.query_key_hadamard =
        online.query_key_hadamard && hadamard_factors(store.config.head_size).blocks > 0;
    OnlineHadamardTap tap(online);
    ForwardOptions options;
    options.tap = &tap;
    const at::Tensor now = forward_logits(store, tokens_BT_, options);
    return now.sub(logits_).abs().max().item<double>() / logits_.abs().max().item<double>();
  }

 private:
  at::Tensor tokens_BT_, logits_;
};

}  // namespace osp
