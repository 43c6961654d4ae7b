#include "osp/optim/adafactor.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/optim/bank_steps.h"

namespace osp {
namespace {

constexpr double kAddedToSquares = 1e-30;
constexpr double kLeastRelativeRms = 1e-3;

// State and weights of a bank: r is [n, rows, 1], c [n, 1, cols].
struct AdafactorBank {
  at::Tensor weight, gradient, rows, columns, mean;
};

// Mean of x² + 1e-30 over one dimension, which stays with size 1.
at::Tensor mean_square(const at::Tensor& x, int64_t dim) {
  return at::linalg_vector_norm(x, 2, at::IntArrayRef{dim}, true)
      .square_()
      .div_(static_cast<double>(x.size(dim)))
      .add_(kAddedToSquares);
}

// Root of the mean square of each matrix, [n, 1, 1].
at::Tensor matrix_rms(const at::Tensor& x) {
  return matrix_norms(x).div_(std::sqrt(static_cast<double>(x.size(1) * x.size(2))));
}

class Adafactor : public Optimizer {
 public:
  Adafactor(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : config_(config), taken_(at::zeros({1}, at::kLong)) {
    state_.emplace_back(group.name + ".step", taken_);
    for (const Bank* bank : banks) {
      OSP_CHECK(bank->gradient.defined(), "bank {} has no gradient", bank->name);
      const int64_t count = bank->master.size(0);
      const auto keep = [&](const char* what, const at::Tensor& tensor) {
        state_.emplace_back(fmt::format("{}.{}.{}", group.name, bank->name, what), tensor);
        return tensor;
      };
      AdafactorBank own{bank->master, bank->gradient, {}, {}, {}};
      own.rows = keep("rows", at::zeros({count, bank->master.size(1), 1}, bank->master.options()));
      own.columns =
          keep("columns", at::zeros({count, 1, bank->master.size(2)}, bank->master.options()));
      if (config.adafactor_momentum > 0) own.mean = keep("mean", at::zeros_like(bank->master));
      banks_.push_back(own);
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    taken_.add_(1);
    double changed = 0;
    for (const AdafactorBank& bank : banks_) {
      for (const BankSlice slice : bank_slices(bank.weight)) {
        changed += step_slice({slice.of(bank.weight), slice.of(bank.gradient), slice.of(bank.rows),
                               slice.of(bank.columns), slice.of(bank.mean)},
                              values);
      }
    }
    last_update_norm_ = std::sqrt(changed);
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override { return state_; }
  double last_update_norm() const override { return last_update_norm_; }

 private:
  double step_slice(AdafactorBank bank, const StepValues& values) const {
    const double t = static_cast<double>(taken_.item<int64_t>());
    const double share = std::pow(t, -config_.adafactor_decay);
    bank.rows.lerp_(mean_square(bank.gradient, 2), share);
    bank.columns.lerp_(mean_square(bank.gradient, 1), share);
    at::Tensor update = bank.gradient * (bank.rows / bank.rows.mean(1, true)).rsqrt_();
    update.mul_(bank.columns.rsqrt());
    update.div_(matrix_rms(update).div_(config_.adafactor_clip).clamp_min_(1));
    if (bank.mean.defined()) {
      bank.mean.lerp_(update, 1 - config_.adafactor_momentum);
      update.copy_(bank.mean);
    }
    update.mul_(values.lr);
    if (config_.adafactor_relative_step) {
      update.mul_(matrix_rms(bank.weight).clamp_min_(kLeastRelativeRms));
    }
    return apply_update(bank.weight, update, values);
  }

  OptimConfig config_;
  at::Tensor taken_;
  std::vector<AdafactorBank> banks_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
};

}  // namespace

void adafactor_step_reference(at::Tensor& weight, const at::Tensor& gradient,
                              AdafactorMoments& moments, int64_t t, const StepValues& values,
                              const OptimConfig& config) {
  const double beta = 1 - std::pow(static_cast<double>(t), -config.adafactor_decay);
  const at::Tensor square = gradient * gradient + kAddedToSquares;
  moments.rows.copy_(moments.rows * beta + square.mean(1) * (1 - beta));
  moments.columns.copy_(moments.columns * beta + square.mean(0) * (1 - beta));
  const at::Tensor estimate = at::outer(moments.rows, moments.columns) / moments.rows.mean();
  at::Tensor update = gradient / estimate.sqrt();
  const double rms = update.square().mean().sqrt().item<double>();
  update = update / std::max(1.0, rms / config.adafactor_clip);
  if (config.adafactor_momentum > 0) {
    moments.mean.copy_(moments.mean * config.adafactor_momentum +
                       update * (1 - config.adafactor_momentum));
    update = moments.mean;
  }
  const double weight_rms = weight.square().mean().sqrt().item<double>();
  const double relative =
      config.adafactor_relative_step ? std::max(kLeastRelativeRms, weight_rms) : 1.0;
  weight.copy_(weight * (1 - values.lr * values.weight_decay) - update * (values.lr * relative));
}

std::unique_ptr<Optimizer> make_adafactor(std::vector<Bank*> banks, const OptimizerGroup& group,
                                          const OptimConfig& config) {
  return std::make_unique<Adafactor>(banks, group, config);
}

double adafactor_state_bytes(int64_t rows, int64_t cols, const OptimConfig& config) {
  const double mean = config.adafactor_momentum > 0 ? double(rows) * double(cols) : 0;
  return 4 * (double(rows) + double(cols) + mean);
}

}  // namespace osp
