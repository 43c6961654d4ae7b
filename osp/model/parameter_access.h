// Access of a forward pass to the parameters of a store: linear layers (one product for neighbours
// in a bank, or one by one where a tap wants weights), norms and tables, by role and layer.
//
// Tested by transformer_test.cpp, fuse_test.cpp and tests/python/test_model_parity.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/ops/fused.h"

namespace osp {

class ParameterAccess {
 public:
  // With `training`, results carry the graph and weight gradients are added into the store's banks;
  // with `fast`, which excludes it, linear layers are fast_linear (osp/ops/linear.h).
  ParameterAccess(const ParameterStore& store, Tap* tap, bool training, bool fast = false);

  // Output of one or several linear layers of a block on the same input, side by side [..., Σ out];
  // their biases too if `biased`. Here and below `layer` is kNoLayer outside the blocks. With
  // `expert` they are layers of that expert.
  at::Tensor linear(const std::vector<ParameterRole>& roles, int64_t layer,
                    const RecomputableInput& x, bool biased, int64_t expert = kNoExpert) const;

  // The norm of that role by the configuration: of x, or (x + branch, norm of it) in one pass.
  RecomputableInput norm(ParameterRole role, int64_t layer, const at::Tensor& x) const;
  std::tuple<at::Tensor, RecomputableInput> add_norm(ParameterRole role, int64_t layer,
                                                     const at::Tensor& x,
                                                     const at::Tensor& branch) const;

  // A table for the operators of fused.h, replaced by the tap where it wants weights.
  WeightRef table(ParameterRole role) const;
  // The fp32 master of a scalar, which is never rounded to the compute type.
  WeightRef scalar(ParameterRole role, int64_t layer) const;
  // The learned logits of a block's heads, fp32 [H]; undefined in a model without attention sinks.
  at::Tensor sinks(int64_t layer) const;
  // A table as a differentiable tensor.
  at::Tensor table_leaf(ParameterRole role) const;
  // Requires grad where a graph is built, else undefined: see embedding().
  const at::Tensor& anchor() const { return anchor_; }
  // Where the parameters are.
  at::Device device() const { return store_.banks.front().compute.device(); }

 private:
  int64_t weight_index(ParameterRole role, int64_t layer, int64_t expert = kNoExpert) const;
  int64_t bias_index(ParameterRole role, int64_t layer, int64_t expert = kNoExpert) const;
  at::Tensor gradient(int64_t parameter) const;
  bool taps_weights() const { return tap_ != nullptr && tap_->wants_weights(); }
  bool taps_linear() const { return tap_ != nullptr && tap_->wants_linear(); }
  WeightRef gain(ParameterRole role, int64_t layer) const;
  WeightRef master(int64_t parameter) const;
  at::Tensor leaf(int64_t parameter) const;
  std::optional<WeightRef> contiguous_weight(const std::vector<int64_t>& parameters) const;
  at::Tensor single(int64_t parameter, const RecomputableInput& x, const at::Tensor& bias) const;
  // The product of a linear layer.
  at::Tensor product(const RecomputableInput& x, const WeightRef& weight) const;
  void show(const std::vector<int64_t>& parameters, const at::Tensor& x, const at::Tensor& y) const;

  const ParameterStore& store_;
  const ModelConfig& config_;
  Tap* tap_;
  bool training_, fast_;
  at::Tensor anchor_;
};

}  // namespace osp
