#include "osp/optim/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "osp/base/error.h"

namespace osp {
namespace {

class AdamW : public Optimizer {
 public:
  AdamW(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : config_(config), taken_(at::zeros({1}, at::kLong)) {
    state_.emplace_back(group.name + ".step", taken_);
    for (Bank* bank : banks) {
      OSP_CHECK(bank->gradient.defined(), "bank {} has no gradient", bank->name);
      weights_.push_back(bank->master);
      gradients_.push_back(bank->gradient);
      means_.push_back(at::zeros_like(bank->master));
      squares_.push_back(at::zeros_like(bank->master));
      state_.emplace_back(fmt::format("{}.{}.mean", group.name, bank->name), means_.back());
      state_.emplace_back(fmt::format("{}.{}.square", group.name, bank->name), squares_.back());
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> before;
    if (values.measure) {
      for (const at::Tensor& weight : weights_) before.push_back(weight.clone());
    }
    taken_.add_(1);
    const double t = static_cast<double>(taken_.item<int64_t>());
    std::vector<at::Tensor> counts;
    for (const at::Tensor& weight : weights_) {
      counts.push_back(at::full({}, t, weight.options().requires_grad(false)));
    }
    at::_fused_adamw_(weights_, gradients_, means_, squares_, {}, counts, values.lr, config_.beta1,
                      config_.beta2, values.weight_decay, config_.eps, false, false);
    if (!values.measure) return;
    double changed = 0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      changed += before[i].sub_(weights_[i]).square_().sum(at::kDouble).item<double>();
    }
    last_update_norm_ = std::sqrt(changed);
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override { return state_; }
  double last_update_norm() const override { return last_update_norm_; }

 private:
  OptimConfig config_;
  at::Tensor taken_;
  std::vector<at::Tensor> weights_, gradients_, means_, squares_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
};

}  // namespace

void adamw_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& mean,
                          at::Tensor& square, int64_t t, const StepValues& values,
                          const OptimConfig& config) {
  mean.copy_(mean * config.beta1 + gradient * (1 - config.beta1));
  square.copy_(square * config.beta2 + gradient * gradient * (1 - config.beta2));
  const double steps = static_cast<double>(t);
  const at::Tensor mean_hat = mean / (1 - std::pow(config.beta1, steps));
  const at::Tensor square_hat = square / (1 - std::pow(config.beta2, steps));
  weight.copy_(weight * (1 - values.lr * values.weight_decay) -
               mean_hat / (square_hat.sqrt() + config.eps) * values.lr);
}

std::unique_ptr<Optimizer> make_adamw(std::vector<Bank*> banks, const OptimizerGroup& group,
                                      const OptimConfig& config) {
  return std::make_unique<AdamW>(banks, group, config);
}

}  // namespace osp
