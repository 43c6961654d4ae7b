#include "osp/optim/adafactor.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "osp/optim/bank_steps.h"
#include "osp/optim/config.h"

namespace osp {
namespace {

constexpr double kAddedToSquares = 1e-30;
constexpr double kLeastRelativeRms = 1e-3;

// State and weights of a bank: r is [n, rows, 1], c [n, 1, cols].
struct AdafactorBank {
  at::Tensor weight, gradient, rows, columns, mean;

  AdafactorBank of(BankSlice slice) const {
    return {slice.of(weight), slice.of(gradient), slice.of(rows), slice.of(columns),
            slice.of(mean)};
  }
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

class Adafactor : public StatefulOptimizer {
 public:
  Adafactor(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks), options_(config.adafactor), taken_(keep_count("step")) {
    for (const Bank* bank : banks) {
      const int64_t count = bank->master.size(0), rows = bank->master.size(1),
                    cols = bank->master.size(2);
      const at::TensorOptions options = bank->master.options();
      AdafactorBank own{bank->master, bank->gradient, {}, {}, {}};
      own.rows = keep(*bank, "rows", at::zeros({count, rows, 1}, options));
      own.columns = keep(*bank, "columns", at::zeros({count, 1, cols}, options));
      if (options_.momentum > 0) own.mean = keep(*bank, "mean", at::zeros_like(bank->master));
      banks_.push_back(own);
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    taken_.add_(1);
    double changed = 0;
    for_each_slice(banks_, [&](const AdafactorBank& part) { changed += step_slice(part, values); });
    set_squared_update(changed);
  }

 private:
  double step_slice(AdafactorBank bank, const StepValues& values) const {
    // Average the squared gradient into its row and column means.
    const double t = static_cast<double>(taken_.item<int64_t>());
    const double share = std::pow(t, -options_.decay);
    bank.rows.lerp_(mean_square(bank.gradient, 2), share);
    bank.columns.lerp_(mean_square(bank.gradient, 1), share);
    // Divide the gradient by the root of r cᵀ / mean(r), and clip the result by matrix.
    at::Tensor update = bank.gradient * (bank.rows / bank.rows.mean(1, true)).rsqrt_();
    update.mul_(bank.columns.rsqrt());
    update.div_(matrix_rms(update).div_(options_.clip).clamp_min_(1));
    // Average the updates, if wanted.
    if (bank.mean.defined()) {
      bank.mean.lerp_(update, 1 - options_.momentum);
      update.copy_(bank.mean);
    }
    // Scale by the rate, and by the size of the weights, if wanted.
    update.mul_(values.lr);
    if (options_.relative_step) {
      update.mul_(matrix_rms(bank.weight).clamp_min_(kLeastRelativeRms));
    }
    return apply_update(bank.weight, update, values);
  }

  AdafactorOptions options_;
  at::Tensor taken_;
  std::vector<AdafactorBank> banks_;
};

std::unique_ptr<Optimizer> make_adafactor(std::vector<Bank*> banks, const OptimizerGroup& group,
                                          const OptimConfig& config) {
  return std::make_unique<Adafactor>(banks, group, config);
}

double adafactor_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                             const OptimConfig& config) {
  const double mean = config.adafactor.momentum > 0 ? double(rows) * double(cols) : 0;
  return 4 * (double(rows) + double(cols) + mean);
}

}  // namespace

void adafactor_step_reference(at::Tensor& weight, const at::Tensor& gradient,
                              AdafactorMoments& moments, int64_t t, const StepValues& values,
                              const OptimConfig& config) {
  const double beta = 1 - std::pow(static_cast<double>(t), -config.adafactor.decay);
  const at::Tensor square = gradient * gradient + kAddedToSquares;
  moments.rows.copy_(moments.rows * beta + square.mean(1) * (1 - beta));
  moments.columns.copy_(moments.columns * beta + square.mean(0) * (1 - beta));
  const at::Tensor estimate = at::outer(moments.rows, moments.columns) / moments.rows.mean();
  at::Tensor update = gradient / estimate.sqrt();
  const double rms = update.square().mean().sqrt().item<double>();
  update = update / std::max(1.0, rms / config.adafactor.clip);
  if (config.adafactor.momentum > 0) {
    moments.mean.copy_(moments.mean * config.adafactor.momentum +
                       update * (1 - config.adafactor.momentum));
    update = moments.mean;
  }
  const double weight_rms = weight.square().mean().sqrt().item<double>();
  const double relative =
      config.adafactor.relative_step ? std::max(kLeastRelativeRms, weight_rms) : 1.0;
  weight.copy_(weight * (1 - values.lr * values.weight_decay) - update * (values.lr * relative));
}

constinit const OptimizerRow kAdafactorRow{
    .name = "adafactor",
    .coverage = Coverage::everything,
    .make = make_adafactor,
    .state_bytes = adafactor_state_bytes,
    .division = Division::banks,
};

}  // namespace osp
