#include "osp/optim/gain_rule.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "osp/optim/config.h"

namespace osp {
namespace {

constexpr double kRmsOfAdam = 0.2;
constexpr double kAddedToNorm = 1e-8;

double gain_scale(int64_t length) { return kRmsOfAdam * std::sqrt(static_cast<double>(length)); }

class GainRule : public StatefulOptimizer {
 public:
  GainRule(std::vector<Bank*> banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks), nesterov_(config.nesterov), banks_(std::move(banks)) {
    for (const Bank* bank : banks_) {
      buffers_.push_back(keep(*bank, "momentum", at::zeros_like(bank->master)));
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    double changed = 0;
    for (size_t i = 0; i < banks_.size(); ++i) {
      at::Tensor& weight = banks_[i]->master;
      const at::Tensor& gradient = banks_[i]->gradient;
      // Add the gradient to the momentum; with Nesterov look ahead by one step of it.
      at::Tensor& buffer = buffers_[i];
      buffer.mul_(values.momentum).add_(gradient);
      const at::Tensor update = nesterov_ ? gradient + buffer * values.momentum : buffer;
      // Divide each gain (a row of the bank) by its own norm.
      const at::Tensor norm = at::linalg_vector_norm(update, 2, at::IntArrayRef{1, 2}, true);
      const double scale = gain_scale(weight.size(2));
      // Decay and move the weights.
      const at::Tensor moved = weight * (1 - values.lr * values.weight_decay) -
                               update / (norm + kAddedToNorm) * (values.lr * scale);
      if (values.measure) changed += (moved - weight).square().sum(at::kDouble).item<double>();
      weight.copy_(moved);
    }
    set_squared_update(changed);
  }

 private:
  bool nesterov_;
  std::vector<Bank*> banks_;
  std::vector<at::Tensor> buffers_;
};

std::unique_ptr<Optimizer> make_gain_rule(std::vector<Bank*> banks, const OptimizerGroup& group,
                                          const OptimConfig& config) {
  return std::make_unique<GainRule>(std::move(banks), group, config);
}

double gain_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                        const OptimConfig& /*config*/) {
  return 4 * double(rows) * double(cols);
}

double gain_update_scale(int64_t /*rows*/, int64_t cols, const OptimizerGroup& /*group*/,
                         const OptimConfig& /*config*/) {
  return gain_scale(cols);
}

GroupSettings gain_settings(const OptimConfig& config, ParameterKind /*kind*/) {
  return {config.gain_lr_scale, config.decay_gain, config.clip_gain};
}

bool is_vector_or_scalar(const ParameterSpec& spec) { return spec.shape.size() <= 1; }

}  // namespace

constinit const OptimizerRow kGainRow{
    .name = "gain",
    .title = "the gain rule",
    .trainable = {.includes = is_vector_or_scalar,
                  .needs = "a vector or scalar",
                  .instead = "adam, adafactor, muon or frozen"},
    .make = make_gain_rule,
    .state_bytes = gain_state_bytes,
    .update_scale = gain_update_scale,
    .settings = gain_settings,
    .division = Division::banks,
};

}  // namespace osp
