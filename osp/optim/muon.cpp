#include "osp/optim/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/dispatch.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/config.h"
#include "osp/optim/momentum_kernels.h"
#include "osp/optim/quantized_momentum.h"

namespace osp {
namespace {

// The factor s of the update of one orthogonalised matrix.
double matrix_scale(const MuonOptions& options, int64_t rows, int64_t cols) {
  const double ratio = static_cast<double>(rows) / static_cast<double>(cols);
  if (options.update_scale == "original") return std::sqrt(std::max(1.0, ratio));
  if (options.update_scale == "spectral") return std::sqrt(ratio);
  return 0.2 * std::sqrt(static_cast<double>(std::max(rows, cols)));
}

// Momentum of one bank, seen as matrices to be orthogonalised.
struct MuonBank {
  at::Tensor weight, gradient;  // [count, rows, cols]
  at::Tensor buffer;            // [count, rows, cols]; undefined with momentum in 8 bits
  QuantizedMomentum quantized;  // the momentum in 8 bits, else undefined
};

class Muon : public StatefulOptimizer {
 public:
  Muon(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks),
        options_(config.muon),
        nesterov_(config.nesterov),
        settings_(newton_schulz_settings(config.muon.newton_schulz)) {
    settings_.threads_share_matrices = !group.thread_per_matrix;
    for (const Bank* bank : banks) {
      // View the bank as the matrices to be orthogonalised: whole ones, or those of heads.
      const int64_t cols = bank->master.size(2);
      const int64_t rows = group.split_rows > 0 ? group.split_rows : bank->master.size(1);
      const auto split = [&](const at::Tensor& t) { return t.view({-1, rows, cols}); };
      MuonBank own{split(bank->master), split(bank->gradient), {}, {}};
      // Momentum is stored in the shape of the bank.
      if (options_.momentum_bits == 8) {
        own.quantized = zero_quantized_momentum(own.weight);
        keep(*bank, "momentum_codes", own.quantized.codes.view(bank->master.sizes()));
        keep(*bank, "momentum_scales", own.quantized.scales);
      } else {
        own.buffer = split(keep(*bank, "momentum", at::zeros_like(bank->master)));
      }
      banks_.push_back(own);
    }
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    double changed = 0;
    // List the matrices that lie on the CPU; step banks on other devices at once.
    std::vector<MatrixTask> tasks;
    std::vector<std::pair<const MuonBank*, int64_t>> places;
    for (const MuonBank& bank : banks_) {
      if (!has_kernels(bank.weight)) {
        changed += step_in_batches(bank, values);
        continue;
      }
      for (int64_t i = 0; i < bank.weight.size(0); ++i) {
        tasks.push_back(
            {static_cast<int64_t>(places.size()), bank.weight.size(1), bank.weight.size(2)});
        places.emplace_back(&bank, i);
      }
    }
    // Step each matrix on one thread.
    std::vector<double> changes(places.size());
    for_each_matrix(tasks, settings_, [&](const MatrixTask& task, Orthogonaliser& orthogonaliser) {
      const auto [bank, i] = places[task.index];
      changes[task.index] = step_matrix(*bank, i, values, orthogonaliser);
    });
    // Add the changes in the order of the matrices, whichever thread was first.
    for (const double change : changes) changed += change;
    set_squared_update(changed);
  }

 private:
  // One matrix on the CPU, in single passes. Returns the squared norm of the weights' change.
  double step_matrix(const MuonBank& bank, int64_t i, const StepValues& values,
                     Orthogonaliser& orthogonaliser) const {
    const int64_t rows = bank.weight.size(1), cols = bank.weight.size(2), size = rows * cols;
    const float* gradient = bank.gradient.data_ptr<float>() + i * size;
    float* weight = bank.weight.data_ptr<float>() + i * size;
    const float beta = static_cast<float>(values.momentum);
    if (bank.buffer.defined()) {
      // 1. Accumulate the gradient into the momentum, and sum the squares of the update u.
      float* buffer = bank.buffer.data_ptr<float>() + i * size;
      const double norm =
          std::sqrt(momentum_kernels::accumulate(gradient, buffer, size, beta, nesterov_));
      // 2. Write u, divided by its norm and rounded to bf16, where Newton–Schulz reads it.
      momentum_kernels::normalise(gradient, buffer, orthogonaliser.data(), size, beta, nesterov_,
                                  orthogonaliser.divisor(norm));
    } else {
      // 1. Sum the squares of u from the codes of the momentum, without writing anything.
      const auto& kernels = quantized_momentum_kernels();
      int8_t* codes = bank.quantized.codes.data_ptr<int8_t>() + i * size;
      float* scales = bank.quantized.scales.data_ptr<float>() + i * momentum_blocks(size);
      const double norm =
          std::sqrt(kernels.sum_of_squares(gradient, codes, scales, size, beta, nesterov_));
      // 2. Accumulate the momentum, write u as above, and store the new codes, block by block.
      kernels.step(gradient, codes, scales, orthogonaliser.data(), size, beta, nesterov_,
                   orthogonaliser.divisor(norm));
    }
    // 3. Orthogonalise u.
    const double factor = orthogonaliser.run() * matrix_scale(options_, rows, cols) * values.lr;
    // 4. Decay the weights and subtract the scaled result.
    const double keep = 1 - values.lr * values.weight_decay;
    return momentum_kernels::apply(weight, orthogonaliser.data(), size, static_cast<float>(keep),
                                   static_cast<float>(factor));
  }

  // A bank on another device: as many matrices at once as fit into the elements below.
  double step_in_batches(const MuonBank& bank, const StepValues& values) const {
    constexpr int64_t kElements = int64_t{1} << 28;
    const int64_t rows = bank.weight.size(1), cols = bank.weight.size(2);
    const int64_t at_once = std::max<int64_t>(1, kElements / (rows * cols));
    double changed = 0;
    for (int64_t first = 0; first < bank.weight.size(0); first += at_once) {
      const int64_t count = std::min(at_once, bank.weight.size(0) - first);
      const at::Tensor gradient = bank.gradient.narrow(0, first, count);
      // Accumulate the gradient into the momentum.
      at::Tensor buffer = read_momentum(bank, first, count);
      buffer.mul_(values.momentum).add_(gradient);
      const at::Tensor update = nesterov_ ? gradient + buffer * values.momentum : buffer;
      // Orthogonalise the update and apply it.
      const double rate = values.lr * matrix_scale(options_, rows, cols);
      changed += apply_update(bank.weight.narrow(0, first, count),
                              newton_schulz_batched(update, settings_) * rate, values);
      if (!bank.buffer.defined()) write_momentum(bank, first, buffer);
    }
    return changed;
  }

  // Momentum of `count` matrices: a view of the buffer, or the numbers that its codes stand for.
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

  MuonOptions options_;
  bool nesterov_;
  NewtonSchulz settings_;
  std::vector<MuonBank> banks_;
};

std::unique_ptr<Optimizer> make_muon(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config) {
  return std::make_unique<Muon>(banks, group, config);
}

double muon_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& group,
                        const OptimConfig& config) {
  const double numbers = double(rows) * double(cols);
  if (config.muon.momentum_bits == 32) return 4 * numbers;
  const int64_t height = group.split_rows > 0 ? group.split_rows : rows;
  const int64_t matrices = rows / height;
  return numbers + 4 * double(matrices) * double(momentum_blocks(height * cols));
}

double muon_update_scale(int64_t rows, int64_t cols, const OptimizerGroup& group,
                         const OptimConfig& config) {
  return matrix_scale(config.muon, group.split_rows > 0 ? group.split_rows : rows, cols);
}

GroupSettings muon_settings(const OptimConfig& config, ParameterKind /*kind*/) {
  return {config.muon_lr_scale, config.decay_muon, config.clip_muon};
}

// True if the rows of the role's weight are those of attention heads, which Muon may take apart.
bool has_rows_of_heads(ParameterRole role) {
  const std::optional<BlockLinear> layer = block_linear(role);
  if (!layer) return false;
  switch (*layer) {
    case BlockLinear::query:
    case BlockLinear::key:
    case BlockLinear::value:
      return true;
    case BlockLinear::attention_output:  // its columns are
    case BlockLinear::gate:
    case BlockLinear::up:
    case BlockLinear::down:
      return false;
  }
  OSP_CHECK(false, "unknown linear layer {}", static_cast<int>(*layer));
}

// Rows of a head, for the projections that optim.per_head orthogonalises head by head.
int64_t muon_split_rows(const ParameterSpec& spec, const OptimConfig& config, int64_t head_size) {
  if (!config.muon.per_head || !has_rows_of_heads(spec.role)) return 0;
  OSP_CHECK(head_size > 0 && spec.shape[0] % head_size == 0,
            "{} [{}] does not divide into heads of {}", spec.name, fmt::join(spec.shape, ", "),
            head_size);
  return head_size;
}

void check_muon_options(const OptimConfig& config) {
  const int64_t bits = config.muon.momentum_bits;
  if (bits != 32 && bits != 8) {
    fail(ErrorCode::usage, "optim.momentum_bits = {}: Muon keeps momentum in 32 bits or in 8",
         bits);
  }
}

// Newton–Schulz alone, of the blocks one by one where rows are split.
double muon_update_flops(int64_t rows, int64_t cols, const OptimizerGroup& group,
                         const OptimConfig& config) {
  const int64_t height = group.split_rows > 0 ? group.split_rows : rows;
  const double blocks = static_cast<double>(rows) / static_cast<double>(height);
  return blocks * newton_schulz_flops(height, cols, config.muon.newton_schulz.ns_steps);
}

}  // namespace

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

constinit const OptimizerRow kMuonRow{
    .name = "muon",
    .coverage = Coverage::matrices,
    .with_gain_rule = true,
    .trainable = kMatrices,
    .make = make_muon,
    .state_bytes = muon_state_bytes,
    .update_scale = muon_update_scale,
    .update_flops = muon_update_flops,
    .settings = muon_settings,
    .split_rows = muon_split_rows,
    .division = Division::matrices,
    .check_options = check_muon_options,
};

}  // namespace osp
