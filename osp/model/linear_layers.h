// How a forward pass gets at the parameters of a store: linear layers (one product for neighbours
// in a bank, or one by one where a tap watches), norms and tables, by name.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/ops/fused.h"

namespace osp {

class LinearLayers {
 public:
  // With `training`, results carry the graph and weight gradients are added into the store's banks.
  LinearLayers(const ParameterStore& store, Tap* tap, bool training);

  // Output of one or several linear layers ("model.layers.0.self_attn.q_proj", …) on the same
  // input, side by side [..., Σ out]; their biases too if `biased`.
  at::Tensor linear(const std::vector<std::string>& names, const RecomputableInput& x,
                    bool biased) const;

  // The norm of that name by the configuration: of x, or (x + branch, norm of it) in one pass.
  RecomputableInput norm(const std::string& name, const at::Tensor& x) const;
  std::tuple<at::Tensor, RecomputableInput> add_norm(const std::string& name, const at::Tensor& x,
                                                     const at::Tensor& branch) const;

  // A parameter for the operators of fused.h, replaced by the tap where it wants weights.
  WeightRef table(const std::string& name) const;
  // The fp32 master of a scalar, which is never rounded to the compute type.
  WeightRef scalar(const std::string& name) const { return norm_parameter(name, ""); }
  // A parameter as a differentiable tensor.
  at::Tensor leaf(const std::string& name) const;
  // Requires grad where a graph is built, else undefined: see embedding().
  const at::Tensor& anchor() const { return anchor_; }
  // Where the parameters are.
  at::Device device() const { return store_.banks.front().compute.device(); }

 private:
  int64_t index(const std::string& name) const;
  at::Tensor gradient(int64_t parameter) const;
  bool taps_weights() const { return tap_ != nullptr && tap_->wants_weights(); }
  bool taps_linear() const { return tap_ != nullptr && tap_->wants_linear(); }
  WeightRef gain(const std::string& name) const;
  WeightRef norm_parameter(const std::string& name, const char* suffix) const;
  at::Tensor bias(const std::string& name) const;
  std::optional<WeightRef> contiguous_weight(const std::vector<int64_t>& parameters) const;
  at::Tensor single(int64_t parameter, const RecomputableInput& x, const at::Tensor& bias) const;

  const ParameterStore& store_;
  const ModelConfig& config_;
  Tap* tap_;
  bool training_;
  at::Tensor anchor_;
};

}  // namespace osp
