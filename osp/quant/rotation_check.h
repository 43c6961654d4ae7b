// Whether rotations leave a model's logits as they are: the measurement after each of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "osp/model/tap.h"
#include "osp/quant/rotation.h"

namespace osp {

// The online Hadamards alone, without any quantization: R3 on queries and keys, R4 before the down
// projection.
class OnlineHadamardTap : public Tap {
 public:
  explicit OnlineHadamardTap(const OnlineTransforms& online) : online_(online) {}
  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

 private:
  OnlineTransforms online_;
};

// Remembers the logits of a model on a few tokens and compares those of changed copies.
class InvarianceCheck {
 public:
  // Error(damaged) if a logit is not finite.
  InvarianceCheck(const ParameterStore& store, const at::Tensor& tokens_BT);

  // max |new − old| / max |old| of `store` with the online transforms; R3 is tried where keys have
  // a Hadamard matrix.
  double change(const ParameterStore& store, const OnlineTransforms& online = {}) const;

  // The same; OSP_CHECK naming `step` if it exceeds the tolerance of the store's type.
  double expect_unchanged(const ParameterStore& store, const OnlineTransforms& online,
                          const std::string& step) const;

 private:
  at::Tensor tokens_BT_, logits_;
};

// 1e-12 for fp64, 1e-3 for fp32. A change of one unit in the last place of every weight moves the
// logits by some units times the condition of the network, which massive activations raise.
double invariance_tolerance(const ParameterStore& store);

// rotate() in fp64 one transform after another, the logits on tokens_BT (a few are enough) compared
// after each; the result is rounded once. Needs three times the memory of the weights. Returns what
// the forward pass must do.
OnlineTransforms rotate_checked(ParameterStore& store, const RotationPlan& plan,
                                const at::Tensor& tokens_BT);

}  // namespace osp
