#include "osp/model/parameter_access.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "osp/base/error.h"
#include "osp/ops/layer_norm.h"

namespace osp {

ParameterAccess::ParameterAccess(const ParameterStore& store, Tap* tap, bool training)
    : store_(store), config_(store.config), tap_(tap), training_(training) {
  if (training) anchor_ = at::zeros({1}, store.banks[0].compute.options()).requires_grad_(true);
}

int64_t ParameterAccess::weight_index(ParameterRole role, int64_t layer) const {
  const int64_t i = store_.find(role, layer);
  OSP_CHECK(i >= 0, "no parameter {}", parameter_name(role, layer));
  return i;
}

int64_t ParameterAccess::bias_index(ParameterRole role, int64_t layer) const {
  const int64_t i = store_.find_bias(role, layer);
  OSP_CHECK(i >= 0, "no parameter {}", bias_name(role, layer));
  return i;
}

at::Tensor ParameterAccess::gradient(int64_t parameter) const {
  return training_ ? store_.gradient(parameter) : at::Tensor();
}

WeightRef ParameterAccess::table(ParameterRole role) const {
  const int64_t i = weight_index(role, kNoLayer);
  const at::Tensor w = store_.compute(i);
  return {taps_weights() ? tap_->weight(i, w) : w, gradient(i)};
}

at::Tensor ParameterAccess::table_leaf(ParameterRole role) const {
  return leaf(weight_index(role, kNoLayer));
}

at::Tensor ParameterAccess::leaf(int64_t parameter) const {
  const at::Tensor value = store_.compute(parameter);
  return training_ ? weight_leaf({value, gradient(parameter)}, anchor_) : value;
}

WeightRef ParameterAccess::master(int64_t parameter) const {
  return {store_.master(parameter), gradient(parameter)};
}

WeightRef ParameterAccess::scalar(ParameterRole role, int64_t layer) const {
  return master(weight_index(role, layer));
}

WeightRef ParameterAccess::gain(ParameterRole role, int64_t layer) const {
  return config_.norm == "simple" ? WeightRef{} : master(weight_index(role, layer));
}

RecomputableInput ParameterAccess::norm(ParameterRole role, int64_t layer,
                                        const at::Tensor& x) const {
  if (!config_.layer_norm()) return rms_norm(x, gain(role, layer), config_.norm_eps);
  if (config_.norm == "layer-plain") return layer_norm(x, {}, {}, config_.norm_eps, anchor_);
  return layer_norm(x, master(weight_index(role, layer)), master(bias_index(role, layer)),
                    config_.norm_eps, anchor_);
}

std::tuple<at::Tensor, RecomputableInput> ParameterAccess::add_norm(
    ParameterRole role, int64_t layer, const at::Tensor& x, const at::Tensor& branch) const {
  if (!config_.layer_norm()) return add_rms_norm(x, branch, gain(role, layer), config_.norm_eps);
  const at::Tensor sum = x + branch;
  return {sum, norm(role, layer, sum)};
}

at::Tensor ParameterAccess::linear(const std::vector<ParameterRole>& roles, int64_t layer,
                                   const RecomputableInput& x, bool biased) const {
  // Find the parameters.
  std::vector<int64_t> parameters;
  std::vector<at::Tensor> biases, outputs;
  for (const ParameterRole role : roles) {
    parameters.push_back(weight_index(role, layer));
    if (biased) biases.push_back(leaf(bias_index(role, layer)));
  }
  // Take one product over all rows where the weights are neighbours and nobody watches.
  if (!taps_weights() && !taps_linear()) {
    if (const auto joined = contiguous_weight(parameters)) {
      const at::Tensor y = osp::linear(x, *joined);
      return biased ? y + at::cat(biases) : y;
    }
  }
  // Take the layers one by one elsewhere.
  for (size_t i = 0; i < parameters.size(); ++i) {
    outputs.push_back(single(parameters[i], x, biased ? biases[i] : at::Tensor()));
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs, -1);
}

// One view over several weights and their gradients if they are neighbours in a bank.
std::optional<WeightRef> ParameterAccess::contiguous_weight(
    const std::vector<int64_t>& parameters) const {
  const int64_t bank = store_.bank_of[parameters[0]], slot = store_.slot_of[parameters[0]];
  for (size_t i = 1; i < parameters.size(); ++i) {
    if (store_.bank_of[parameters[i]] != bank ||
        store_.slot_of[parameters[i]] != slot + static_cast<int64_t>(i)) {
      return std::nullopt;
    }
  }
  const auto rows = [&](const at::Tensor& t) {
    return t.narrow(0, slot, static_cast<int64_t>(parameters.size())).flatten(0, 1);
  };
  return WeightRef{rows(store_.banks[bank].compute), gradient(parameters[0]).defined()
                                                         ? rows(store_.banks[bank].gradient)
                                                         : at::Tensor()};
}

at::Tensor ParameterAccess::single(int64_t parameter, const RecomputableInput& x,
                                   const at::Tensor& bias) const {
  const WeightRef own{store_.compute(parameter), gradient(parameter)};
  at::Tensor y;
  if (taps_weights()) {
    const at::Tensor weight = training_ ? weight_leaf(own, anchor_) : own.value;
    y = at::matmul(x.value, tap_->weight(parameter, weight).t());
  } else {
    y = osp::linear(x, own);
  }
  if (bias.defined()) y = y + bias;
  // Training without a graph is the first of two runs of a block: the watcher sees the second.
  if (taps_linear() && (!training_ || at::GradMode::is_enabled())) {
    tap_->linear_input(parameter, x.value.detach().flatten(0, -2));
    tap_->linear_output(parameter, y.detach().flatten(0, -2));
    if (training_) {
      y.register_hook([watcher = tap_, parameter](const at::Tensor& dy) {
        watcher->linear_output_gradient(parameter, dy.flatten(0, -2));
      });
    }
  }
  return y;
}

}  // namespace osp
