#include "osp/optim/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/dispatch.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/momentum_kernels.h"
#include "osp/optim/quantized_momentum.h"

namespace osp {
namespace {

double matrix_scale(const OptimConfig& config, int64_t rows, int64_t cols) {
  const double ratio = static_cast<double>(rows) / static_cast<double>(cols);
  if (config.update_scale == "original") return std::sqrt(std::max(1.0, ratio));
  if (config.update_scale == "spectral") return std::sqrt(ratio);
  return 0.2 * std::sqrt(static_cast<double>(std::max(rows, cols)));
}

// Momentum of one bank, seen as matrices to be orthogonalised.
struct MuonBank {
  std::string name;
  at::Tensor weight, gradient;  // [count, rows, cols]
  at::Tensor buffer;            // the same; undefined with momentum in 8 bits
  QuantizedMomentum quantized;  // then this
};

class Muon : public Optimizer {
 public:
  Muon(std::vector<Bank*> banks, const OptimizerGroup& group, const OptimConfig& config)
      : config_(config), settings_(newton_schulz_settings(config)) {
    for (Bank* bank : banks) {
      OSP_CHECK(bank->gradient.defined(), "bank {} has no gradient", bank->name);
      const int64_t cols = bank->master.size(2);
      const int64_t rows = group.split_rows > 0 ? group.split_rows : bank->master.size(1);
      const auto split = [&](const at::Tensor& t) { return t.view({-1, rows, cols}); };
      const std::string name = fmt::format("{}.{}.momentum", group.name, bank->name);
      MuonBank& own = banks_.emplace_back(
          MuonBank{bank->name, split(bank->master), split(bank->gradient), {}, {}});
      if (config.momentum_bits == 8) {
        own.quantized = zero_quantized_momentum(own.weight);
        state_.emplace_back(name + "_codes", own.quantized.codes.view(bank->master.sizes()));
        state_.emplace_back(name + "_scales", own.quantized.scales);
      } else {
        state_.emplace_back(name, at::zeros_like(bank->master));
        own.buffer = split(state_.back().second);
      }
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    double changed = 0;
    std::vector<MatrixTask> tasks;
    std::vector<std::pair<const MuonBank*, int64_t>> places;
    for (const MuonBank& bank : banks_) {
      if (!has_kernels(bank.weight)) {
        changed += step_elsewhere(bank, values);
        continue;
      }
      for (int64_t i = 0; i < bank.weight.size(0); ++i) {
        tasks.push_back(
            {static_cast<int64_t>(places.size()), bank.weight.size(1), bank.weight.size(2)});
        places.emplace_back(&bank, i);
      }
    }
    std::vector<double> changes(places.size());
    for_each_matrix(tasks, settings_, [&](const MatrixTask& task, Orthogonaliser& orthogonaliser) {
      const auto [bank, i] = places[task.index];
      changes[task.index] = step_matrix(*bank, i, values, orthogonaliser);
    });
    for (const double change : changes) changed += change;
    last_update_norm_ = std::sqrt(changed);
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override { return state_; }
  double last_update_norm() const override { return last_update_norm_; }

 private:
  // Returns the squared norm of the weights' change.
  double step_matrix(const MuonBank& bank, int64_t i, const StepValues& values,
                     Orthogonaliser& orthogonaliser) const {
    const int64_t rows = bank.weight.size(1), cols = bank.weight.size(2), size = rows * cols;
    const float* gradient = bank.gradient.data_ptr<float>() + i * size;
    float* weight = bank.weight.data_ptr<float>() + i * size;
    const float beta = static_cast<float>(values.momentum);
    if (bank.buffer.defined()) {
      float* buffer = bank.buffer.data_ptr<float>() + i * size;
      const double norm =
          std::sqrt(momentum_kernels::accumulate(gradient, buffer, size, beta, config_.nesterov));
      momentum_kernels::normalise(gradient, buffer, orthogonaliser.data(), size, beta,
                                  config_.nesterov, orthogonaliser.divisor(norm));
    } else {
      const auto& kernels = quantized_momentum_kernels();
      int8_t* codes = bank.quantized.codes.data_ptr<int8_t>() + i * size;
      float* scales = bank.quantized.scales.data_ptr<float>() + i * momentum_blocks(size);
      const double norm =
          std::sqrt(kernels.sum_of_squares(gradient, codes, scales, size, beta, config_.nesterov));
      kernels.step(gradient, codes, scales, orthogonaliser.data(), size, beta, config_.nesterov,
                   orthogonaliser.divisor(norm));
    }
    const double factor = orthogonaliser.run() * matrix_scale(config_, rows, cols) * values.lr;
    const double keep = 1 - values.lr * values.weight_decay;
    return momentum_kernels::apply(weight, orthogonaliser.data(), size, static_cast<float>(keep),
                                   static_cast<float>(factor));
  }

  // On other devices: as many matrices of a bank at once as fit into the elements below.
  double step_elsewhere(const MuonBank& bank, const StepValues& values) const {
    constexpr int64_t kElements = int64_t{1} << 28;
    const int64_t rows = bank.weight.size(1), cols = bank.weight.size(2);
    const int64_t at_once = std::max<int64_t>(1, kElements / (rows * cols));
    double changed = 0;
    for (int64_t first = 0; first < bank.weight.size(0); first += at_once) {
      const int64_t count = std::min(at_once, bank.weight.size(0) - first);
      const at::Tensor gradient = bank.gradient.narrow(0, first, count);
      at::Tensor buffer = read_momentum(bank, first, count);
      buffer.mul_(values.momentum).add_(gradient);
      const at::Tensor update = config_.nesterov ? gradient + buffer * values.momentum : buffer;
      const double rate = values.lr * matrix_scale(config_, rows, cols);
      changed += apply_update(bank.weight.narrow(0, first, count),
                              newton_schulz_batched(update, settings_) * rate, values);
      if (!bank.buffer.defined()) write_momentum(bank, first, buffer);
    }
    return changed;
  }

  // Of `count` matrices: a view of the buffer, or what its codes stand for.
  static at::Tensor read_momentum(const MuonBank& bank, int64_t first, int64_t count) {
    if (bank.buffer.defined()) return bank.buffer.narrow(0, first, count);
    std::vector<at::Tensor> matrices;
    for (int64_t i = first; i < first + count; ++i) {
      matrices.push_back(dequantize_momentum_reference(bank.quantized.select(i)));
    }
    return at::stack(matrices);
  }

  static void write_momentum(const MuonBank& bank, int64_t first, const at::Tensor& buffer) {
    for (int64_t i = 0; i < buffer.size(0); ++i) {
      store_momentum_reference(buffer[i], bank.quantized.select(first + i));
    }
  }

  OptimConfig config_;
  NewtonSchulz settings_;
  std::vector<MuonBank> banks_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
};

class GainRule : public Optimizer {
 public:
  GainRule(std::vector<Bank*> banks, const OptimizerGroup& group, const OptimConfig& config)
      : nesterov_(config.nesterov), banks_(std::move(banks)) {
    for (Bank* bank : banks_) {
      OSP_CHECK(bank->gradient.defined(), "bank {} has no gradient", bank->name);
      state_.emplace_back(fmt::format("{}.{}.momentum", group.name, bank->name),
                          at::zeros_like(bank->master));
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    double changed = 0;
    for (size_t i = 0; i < banks_.size(); ++i) {
      at::Tensor& weight = banks_[i]->master;
      const at::Tensor& gradient = banks_[i]->gradient;
      at::Tensor& buffer = state_[i].second;
      buffer.mul_(values.momentum).add_(gradient);
      const at::Tensor update = nesterov_ ? gradient + buffer * values.momentum : buffer;
      // Each gain (a row of the bank) has its own norm.
      const at::Tensor norm = at::linalg_vector_norm(update, 2, at::IntArrayRef{1, 2}, true);
      const double scale = 0.2 * std::sqrt(static_cast<double>(weight.size(2)));
      const at::Tensor moved = weight * (1 - values.lr * values.weight_decay) -
                               update / (norm + 1e-8) * (values.lr * scale);
      if (values.measure) changed += (moved - weight).square().sum(at::kDouble).item<double>();
      weight.copy_(moved);
    }
    last_update_norm_ = std::sqrt(changed);
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override { return state_; }
  double last_update_norm() const override { return last_update_norm_; }

 private:
  bool nesterov_;
  std::vector<Bank*> banks_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
};

}  // namespace

double update_scale(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                    const OptimConfig& config) {
  switch (group.kind) {
    case OptimizerKind::adam:
    case OptimizerKind::adafactor:
    case OptimizerKind::shampoo:
    case OptimizerKind::soap:
    case OptimizerKind::kfac:
      return 1;
    case OptimizerKind::muon:
      return matrix_scale(config, group.split_rows > 0 ? group.split_rows : shape[0], shape[1]);
    case OptimizerKind::gain:
      return 0.2 * std::sqrt(static_cast<double>(shape.empty() ? 1 : shape[0]));
    case OptimizerKind::frozen:
      return 0;
  }
  return 0;
}

void muon_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& buffer,
                         const StepValues& values, const NewtonSchulz& settings, double scale,
                         bool nesterov) {
  buffer.copy_(gradient + buffer * values.momentum);
  const at::Tensor update = nesterov ? gradient + buffer * values.momentum : buffer;
  const at::Tensor orthogonal = newton_schulz_reference(update, settings);
  weight.copy_(weight * (1 - values.lr * values.weight_decay) - orthogonal * (values.lr * scale));
}

void muon_step_reference(at::Tensor& weight, const at::Tensor& gradient,
                         QuantizedMomentum& momentum, const StepValues& values,
                         const NewtonSchulz& settings, double scale, bool nesterov) {
  at::Tensor buffer = dequantize_momentum_reference(momentum);
  muon_step_reference(weight, gradient, buffer, values, settings, scale, nesterov);
  store_momentum_reference(buffer, momentum);
}

std::unique_ptr<Optimizer> make_muon(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config) {
  return std::make_unique<Muon>(std::move(banks), group, config);
}

double muon_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& group,
                        const OptimConfig& config) {
  const double numbers = double(rows) * double(cols);
  if (config.momentum_bits == 32) return 4 * numbers;
  const int64_t height = group.split_rows > 0 ? group.split_rows : rows;
  return numbers + 4 * double(rows / height) * double(momentum_blocks(height * cols));
}

std::unique_ptr<Optimizer> make_gain_rule(std::vector<Bank*> banks, const OptimizerGroup& group,
                                          const OptimConfig& config) {
  return std::make_unique<GainRule>(std::move(banks), group, config);
}

}  // namespace osp
