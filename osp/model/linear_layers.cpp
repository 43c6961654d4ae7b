#include "osp/model/linear_layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "osp/base/error.h"
#include "osp/ops/layer_norm.h"

namespace osp {

LinearLayers::LinearLayers(const ParameterStore& store, Tap* tap, bool training)
    : store_(store), config_(store.config), tap_(tap), training_(training) {
  if (training) anchor_ = at::zeros({1}, store.banks[0].compute.options()).requires_grad_(true);
}

int64_t LinearLayers::index(const std::string& name) const {
  const int64_t i = store_.find(name);
  OSP_CHECK(i >= 0, "no parameter {}", name);
  return i;
}

at::Tensor LinearLayers::gradient(int64_t parameter) const {
  return training_ ? store_.gradient(parameter) : at::Tensor();
}

WeightRef LinearLayers::table(const std::string& name) const {
  const int64_t i = index(name);
  const at::Tensor w = store_.compute(i);
  return {taps_weights() ? tap_->weight(i, w) : w, gradient(i)};
}

at::Tensor LinearLayers::leaf(const std::string& name) const {
  const int64_t i = index(name);
  if (!training_) return store_.compute(i);
  return weight_leaf({store_.compute(i), gradient(i)}, anchor_);
}

WeightRef LinearLayers::norm_parameter(const std::string& name, const char* suffix) const {
  const int64_t i = index(name + suffix);
  return {store_.master(i), gradient(i)};
}

WeightRef LinearLayers::gain(const std::string& name) const {
  return config_.norm == "simple" ? WeightRef{} : norm_parameter(name, ".weight");
}

RecomputableInput LinearLayers::norm(const std::string& name, const at::Tensor& x) const {
  if (!config_.layer_norm()) return rms_norm(x, gain(name), config_.norm_eps);
  if (config_.norm == "layer-plain") return layer_norm(x, {}, {}, config_.norm_eps, anchor_);
  return layer_norm(x, norm_parameter(name, ".weight"), norm_parameter(name, ".bias"),
                    config_.norm_eps, anchor_);
}

std::tuple<at::Tensor, RecomputableInput> LinearLayers::add_norm(const std::string& name,
                                                                 const at::Tensor& x,
                                                                 const at::Tensor& branch) const {
  if (!config_.layer_norm()) return add_rms_norm(x, branch, gain(name), config_.norm_eps);
  const at::Tensor sum = x + branch;
  return {sum, norm(name, sum)};
}

at::Tensor LinearLayers::bias(const std::string& name) const { return leaf(name + ".bias"); }

at::Tensor LinearLayers::linear(const std::vector<std::string>& names, const RecomputableInput& x,
                                bool biased) const {
  std::vector<int64_t> parameters;
  std::vector<at::Tensor> biases, outputs;
  for (const std::string& name : names) {
    parameters.push_back(index(name + ".weight"));
    if (biased) biases.push_back(bias(name));
  }
  if (!taps_weights() && !taps_linear()) {
    if (const auto fused = contiguous_weight(parameters)) {
      const at::Tensor y = osp::linear(x, *fused);
      return biased ? y + at::cat(biases) : y;
    }
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    outputs.push_back(single(parameters[i], x, biased ? biases[i] : at::Tensor()));
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs, -1);
}

// One view over several weights and their gradients if they are neighbours in a bank.
std::optional<WeightRef> LinearLayers::contiguous_weight(
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

at::Tensor LinearLayers::single(int64_t parameter, const RecomputableInput& x,
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
