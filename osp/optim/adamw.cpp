#include "osp/optim/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "osp/optim/config.h"

namespace osp {
namespace {

class AdamW : public StatefulOptimizer {
 public:
  AdamW(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks), options_(config.adam), taken_(keep_count("step")) {
    for (const Bank* bank : banks) {
      weights_.push_back(bank->master);
      gradients_.push_back(bank->gradient);
      means_.push_back(keep(*bank, "mean", at::zeros_like(bank->master)));
      squares_.push_back(keep(*bank, "square", at::zeros_like(bank->master)));
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    // Keep the weights only if their change is to be measured.
    std::vector<at::Tensor> before;
    if (values.measure) {
      for (const at::Tensor& weight : weights_) before.push_back(weight.clone());
    }
    // Step all banks in one call; the kernel wants a count per tensor.
    taken_.add_(1);
    const double t = static_cast<double>(taken_.item<int64_t>());
    std::vector<at::Tensor> counts;
    for (const at::Tensor& weight : weights_) {
      counts.push_back(at::full({}, t, weight.options().requires_grad(false)));
    }
    at::_fused_adamw_(weights_, gradients_, means_, squares_, {}, counts, values.lr, options_.beta1,
                      options_.beta2, values.weight_decay, options_.eps, false, false);
    if (!values.measure) return;
    // Measure the change.
    double changed = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      changed += before[i].sub_(weights_[i]).square_().sum(at::kDouble).item<double>();
    }
    set_squared_update(changed);
  }

 private:
  AdamOptions options_;
  at::Tensor taken_;
  std::vector<at::Tensor> weights_, gradients_, means_, squares_;
};

std::unique_ptr<Optimizer> make_adamw(std::vector<Bank*> banks, const OptimizerGroup& group,
                                      const OptimConfig& config) {
  return std::make_unique<AdamW>(banks, group, config);
}

double adamw_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                         const OptimConfig& /*config*/) {
  return 8 * double(rows) * double(cols);
}

GroupSettings adam_settings(const OptimConfig& config, ParameterKind kind) {
  const bool is_gain = kind == ParameterKind::gain;
  return {config.adam_lr_scale, is_gain ? config.decay_gain : config.decay_adam, config.clip_adam};
}

}  // namespace

void adamw_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& mean,
                          at::Tensor& square, int64_t t, const StepValues& values,
                          const OptimConfig& config) {
  mean.copy_(mean * config.adam.beta1 + gradient * (1 - config.adam.beta1));
  square.copy_(square * config.adam.beta2 + gradient * gradient * (1 - config.adam.beta2));
  const double steps = static_cast<double>(t);
  const at::Tensor mean_hat = mean / (1 - std::pow(config.adam.beta1, steps));
  const at::Tensor square_hat = square / (1 - std::pow(config.adam.beta2, steps));
  weight.copy_(weight * (1 - values.lr * values.weight_decay) -
               mean_hat / (square_hat.sqrt() + config.adam.eps) * values.lr);
}

constinit const OptimizerRow kAdamRow{
    .name = "adam",
    .coverage = Coverage::everything,
    .make = make_adamw,
    .state_bytes = adamw_state_bytes,
    .settings = adam_settings,
    .division = Division::rows,
};

}  // namespace osp
