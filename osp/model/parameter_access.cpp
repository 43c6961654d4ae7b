#include "osp/model/parameter_access.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "osp/base/error.h"
#include "osp/ops/layer_norm.h"
#include "osp/ops/linear.h"

namespace osp {

ParameterAccess::ParameterAccess(const ParameterStore& store, Tap* tap, bool training, bool fast)
    : store_(store), config_(store.config), tap_(tap), training_(training), fast_(fast) {
  OSP_CHECK(!(training && fast), "fast products have no gradients");
  if (training) anchor_ = at::zeros({1}, store.banks[0].compute.options()).requires_grad_(true);
}

int64_t ParameterAccess::weight_index(ParameterRole role, int64_t layer, int64_t expert) const {
  const int64_t i = store_.find(role, layer, expert);
  OSP_CHECK(i >= 0, "no parameter {}", parameter_name(role, layer, expert));
  return i;
}

int64_t ParameterAccess::bias_index(ParameterRole role, int64_t layer, int64_t expert) const {
  const int64_t i = store_.find_bias(role, layer, expert);
  OSP_CHECK(i >= 0, "no parameter {}", bias_name(role, layer, expert));
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

at::Tensor ParameterAccess::sinks(int64_t layer) const {
  if (!config_.attention_sinks) return {};
  return store_.master(weight_index(ParameterRole::attention_sink, layer));
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
                                   const RecomputableInput& x, bool biased, int64_t expert) const {
  // Find the parameters.
  std::vector<int64_t> parameters;
  std::vector<at::Tensor> biases, outputs;
  for (const ParameterRole role : roles) {
    parameters.push_back(weight_index(role, layer, expert));
    if (!biased) continue;
    // A tap that wants weights is offered the bias of a linear layer, too.
    const int64_t bias = bias_index(role, layer, expert);
    biases.push_back(taps_weights() ? tap_->weight(bias, leaf(bias)) : leaf(bias));
  }
  // Take one product over all rows where the weights are neighbours and no tap replaces them, or
  // the layers one by one.
  const auto joined = taps_weights() ? std::nullopt : contiguous_weight(parameters);
  at::Tensor y;
  if (joined) {
    y = product(x, *joined);
    if (biased) y = y + at::cat(biases);
  } else {
    for (size_t i = 0; i < parameters.size(); ++i) {
      outputs.push_back(single(parameters[i], x, biased ? biases[i] : at::Tensor()));
    }
    y = outputs.size() == 1 ? outputs[0] : at::cat(outputs, -1);
  }
  // Training without a graph is the first of two runs of a block: the watcher sees the second.
  if (taps_linear() && (!training_ || at::GradMode::is_enabled())) show(parameters, x.value, y);
  return y;
}

at::Tensor ParameterAccess::product(const RecomputableInput& x, const WeightRef& weight) const {
  return fast_ ? fast_linear(x.value, weight.value) : osp::linear(x, weight);
}

// Shows the tap the input of linear layers and their outputs, which lie side by side in y.
void ParameterAccess::show(const std::vector<int64_t>& parameters, const at::Tensor& x,
                           const at::Tensor& y) const {
  tap_->linear_input(parameters, x.detach().flatten(0, -2));
  std::vector<int64_t> widths;
  for (const int64_t parameter : parameters) widths.push_back(store_.compute(parameter).size(0));
  const auto each = [parameters, widths](const at::Tensor& joined, const auto& see) {
    int64_t column = 0;
    for (size_t i = 0; i < parameters.size(); column += widths[i++]) {
      see(parameters[i], joined.narrow(1, column, widths[i]));
    }
  };
  each(y.detach().flatten(0, -2),
       [&](int64_t parameter, const at::Tensor& part) { tap_->linear_output(parameter, part); });
  if (!training_) return;
  y.register_hook([watcher = tap_, each](const at::Tensor& dy) {
    each(dy.flatten(0, -2), [&](int64_t parameter, const at::Tensor& part) {
      watcher->linear_output_gradient(parameter, part);
    });
  });
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
    const at::Tensor replaced = tap_->weight(parameter, weight);
    y = fast_ ? fast_linear(x.value, replaced) : at::matmul(x.value, replaced.t());
  } else {
    y = product(x, own);
  }
  return bias.defined() ? y + bias : y;
}

}  // namespace osp
