// The forward pass of a model as if R1 and R2 were folded into its weights, differentiable in both,
// with fake quantization whose rounding passes gradients straight through.
//
// The residual stream leaves the embedding as x R1 and is turned back, after the final norm, as
// y R1ᵀ: the tables need not be rotated. Every weight of a block is given in its rotated form, and
// so are the biases b R1 of o and down, but for v: values are turned by R2 when they are computed,
// after their bias. What a LayerNorm adds, b, becomes b R1 behind it: x + b (R1 − I). The store
// must have folded norms and W_down · H already.
//
// Tested by spinquant_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "osp/ptq/rotation_check.h"
#include "osp/quant/fake_quant.h"

namespace osp {

class SpinQuantTap : public Tap {
 public:
  // R1 [D, D] and one R2 [K, K] per layer, fp32; those that require grad get gradients. `store`
  // must outlive the tap.
  SpinQuantTap(const ParameterStore& store, const BitWidths& bits, const OnlineTransforms& online,
               const at::Tensor& residual, const std::vector<at::Tensor>& values,
               const ActivationGroups& groups = {});

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& input) override;
  bool wants_weights() const override { return true; }
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override;

 private:
  at::Tensor rotated(int64_t parameter) const;
  at::Tensor with_turned_bias(ParameterRole norm, int64_t layer, const at::Tensor& x) const;

  const ParameterStore& store_;
  BitWidths bits_;
  OnlineHadamardTap online_;
  FakeQuantTap quantizer_;  // without the online Hadamards, which need gradients of their own
  at::Tensor residual_;
  std::vector<at::Tensor> values_;
};

}  // namespace osp
