#include "osp/optim/shampoo.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "osp/optim/bank_steps.h"
#include "osp/optim/block_grid.h"
#include "osp/optim/config.h"
#include "osp/optim/decompositions.h"

namespace osp {
namespace {

constexpr double kRoot = 4;           // L and R share the square root of the second moments
constexpr double kLeastNorm = 1e-30;  // of a direction that is scaled

// Tensors of one bank or of a slice of it. Factors and roots: [n, blocks of a matrix, size, size].
struct ShampooBank {
  at::Tensor weight, gradient, mean, square;
  at::Tensor left_factor, left_root, right_factor, right_root;
  BlockGrid grid;

  ShampooBank of(BankSlice slice) const {
    return {slice.of(weight),       slice.of(gradient),    slice.of(mean),
            slice.of(square),       slice.of(left_factor), slice.of(left_root),
            slice.of(right_factor), slice.of(right_root),  grid};
  }
};

class Shampoo : public StatefulOptimizer {
 public:
  Shampoo(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks),
        config_(config),
        taken_(keep_count("step")),
        failures_(keep_count("failures")) {
    for (const Bank* bank : banks) add(*bank);
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    taken_.add_(1);
    const int64_t t = taken_.item<int64_t>();
    // Add the gradients to the factors of all blocks, and renew the roots if it is time.
    for_each_slice(banks_, [&](const ShampooBank& part) { accumulate(part); });
    if (t % config_.precondition_every == 0) refresh(t);
    // Move the weights.
    double changed = 0;
    for_each_slice(banks_, [&](const ShampooBank& part) { changed += update(part, t, values); });
    set_squared_update(changed);
  }

 private:
  void add(const Bank& bank) {
    const BlockGrid grid =
        make_block_grid(bank.master.size(1), bank.master.size(2), config_.shampoo.block);
    const int64_t count = bank.master.size(0), blocks = grid.blocks_per_matrix();
    const at::TensorOptions options = bank.master.options();
    const auto factor = [&](int64_t size) {
      return at::zeros({count, blocks, size, size}, options);
    };
    const auto root = [&](int64_t size) {
      return at::eye(size, options).repeat({count, blocks, 1, 1});
    };
    ShampooBank own{bank.master, bank.gradient, {}, {}, {}, {}, {}, {}, grid};
    own.mean = keep(bank, "mean", at::zeros_like(bank.master));
    own.square = keep(bank, "square", at::zeros_like(bank.master));
    own.left_factor = keep(bank, "left_factor", factor(grid.block_rows));
    own.left_root = keep(bank, "left_root", root(grid.block_rows));
    own.right_factor = keep(bank, "right_factor", factor(grid.block_cols));
    own.right_root = keep(bank, "right_root", root(grid.block_cols));
    banks_.push_back(own);
  }

  void accumulate(const ShampooBank& part) const {
    const double beta = config_.precondition_beta;
    const at::Tensor g = part.grid.cut(part.gradient);
    part.left_factor.flatten(0, 1).baddbmm_(g, g.mT(), beta, 1 - beta);
    part.right_factor.flatten(0, 1).baddbmm_(g.mT(), g, beta, 1 - beta);
  }

  // New roots of every block, each on one thread.
  void refresh(int64_t t) {
    // List the blocks of all banks, left and right.
    std::vector<std::pair<at::Tensor, at::Tensor>> factors_and_roots;
    const auto add_all = [&](const at::Tensor& factors, const at::Tensor& roots) {
      for (int64_t i = 0; i < factors.size(0) * factors.size(1); ++i) {
        factors_and_roots.emplace_back(factors.flatten(0, 1)[i], roots.flatten(0, 1)[i]);
      }
    };
    for (const ShampooBank& bank : banks_) {
      add_all(bank.left_factor, bank.left_root);
      add_all(bank.right_factor, bank.right_root);
    }
    // Replace each root, unless the new one fails.
    const double seen = 1 - std::pow(config_.precondition_beta, static_cast<double>(t));
    failures_.add_(count_failures(static_cast<int64_t>(factors_and_roots.size()), [&](int64_t i) {
      auto& [factor, root] = factors_and_roots[size_t(i)];
      const auto found = inverse_root(factor / seen, kRoot, config_.shampoo.eps);
      if (!found) return 1;
      root.copy_(*found);
      return 0;
    }));
  }

  // Returns the squared norm of the change if measured.
  double update(ShampooBank part, int64_t t, const StepValues& values) const {
    // Average the gradient and its square, and form Adam's step from them.
    const double steps = static_cast<double>(t);
    part.mean.lerp_(part.gradient, 1 - config_.adam.beta1);
    part.square.mul_(config_.adam.beta2)
        .addcmul_(part.gradient, part.gradient, 1 - config_.adam.beta2);
    const at::Tensor root =
        (part.square / (1 - std::pow(config_.adam.beta2, steps))).sqrt_().add_(config_.adam.eps);
    at::Tensor update = (part.mean / root).div_(1 - std::pow(config_.adam.beta1, steps));
    // Take its length only, once there are roots.
    if (t >= config_.precondition_every) update = grafted(part, update);
    return apply_update(part.weight, update.mul_(values.lr), values);
  }

  // The preconditioned mean, each block scaled to the norm of the same block of `step`.
  at::Tensor grafted(const ShampooBank& part, const at::Tensor& step) const {
    at::Tensor direction = at::bmm(at::bmm(part.left_root.flatten(0, 1), part.grid.cut(part.mean)),
                                   part.right_root.flatten(0, 1));
    const at::Tensor lengths = matrix_norms(direction).clamp_min_(kLeastNorm);
    direction.mul_(matrix_norms(part.grid.cut(step)).div_(lengths));
    return part.grid.join(direction);
  }

  OptimConfig config_;
  at::Tensor taken_, failures_;
  std::vector<ShampooBank> banks_;
};

// View of block (i, j) of a matrix.
at::Tensor block_of(const at::Tensor& matrix, const BlockGrid& grid, int64_t i, int64_t j) {
  const int64_t row = i * grid.block_rows, col = j * grid.block_cols;
  return matrix.narrow(0, row, std::min(grid.block_rows, grid.rows - row))
      .narrow(1, col, std::min(grid.block_cols, grid.cols - col));
}

void shampoo_block_reference(at::Tensor update, const at::Tensor& mean, const at::Tensor& gradient,
                             ShampooMatrix& matrix, size_t b, const OptimConfig& config) {
  at::Tensor &left = matrix.left_factors[b], &right = matrix.right_factors[b];
  const double beta = config.precondition_beta;
  left = left * beta + at::matmul(gradient, gradient.t()) * (1 - beta);
  right = right * beta + at::matmul(gradient.t(), gradient) * (1 - beta);
  if (matrix.t % config.precondition_every == 0) {
    const double seen = 1 - std::pow(beta, static_cast<double>(matrix.t));
    matrix.left_roots[b] = inverse_root(left / seen, kRoot, config.shampoo.eps).value();
    matrix.right_roots[b] = inverse_root(right / seen, kRoot, config.shampoo.eps).value();
  }
  if (matrix.t < config.precondition_every) return;
  const at::Tensor direction =
      at::matmul(at::matmul(matrix.left_roots[b], mean), matrix.right_roots[b]);
  update.copy_(direction * (at::linalg_vector_norm(update) / at::linalg_vector_norm(direction)));
}

std::unique_ptr<Optimizer> make_shampoo(std::vector<Bank*> banks, const OptimizerGroup& group,
                                        const OptimConfig& config) {
  return std::make_unique<Shampoo>(banks, group, config);
}

double shampoo_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                           const OptimConfig& config) {
  const BlockGrid grid = make_block_grid(rows, cols, config.shampoo.block);
  const double block = double(grid.block_rows) * double(grid.block_rows) +
                       double(grid.block_cols) * double(grid.block_cols);
  return 4 * (2 * double(rows) * double(cols) + 2 * double(grid.blocks_per_matrix()) * block);
}

}  // namespace

ShampooMatrix make_shampoo_matrix(const at::Tensor& weight, const OptimConfig& config) {
  const BlockGrid grid = make_block_grid(weight.size(0), weight.size(1), config.shampoo.block);
  ShampooMatrix matrix{at::zeros_like(weight), at::zeros_like(weight), {}, {}, {}, {}, 0};
  for (int64_t b = 0; b < grid.blocks_per_matrix(); ++b) {
    const at::Tensor block = block_of(weight, grid, b / grid.col_blocks, b % grid.col_blocks);
    const int64_t rows = block.size(0), cols = block.size(1);
    matrix.left_factors.push_back(at::zeros({rows, rows}, weight.options()));
    matrix.right_factors.push_back(at::zeros({cols, cols}, weight.options()));
    matrix.left_roots.push_back(at::eye(rows, weight.options()));
    matrix.right_roots.push_back(at::eye(cols, weight.options()));
  }
  return matrix;
}

void shampoo_step_reference(at::Tensor& weight, const at::Tensor& gradient, ShampooMatrix& matrix,
                            const StepValues& values, const OptimConfig& config) {
  const BlockGrid grid = make_block_grid(weight.size(0), weight.size(1), config.shampoo.block);
  const double steps = static_cast<double>(++matrix.t);
  matrix.mean = matrix.mean * config.adam.beta1 + gradient * (1 - config.adam.beta1);
  matrix.square = matrix.square * config.adam.beta2 + gradient.square() * (1 - config.adam.beta2);
  const at::Tensor mean_hat = matrix.mean / (1 - std::pow(config.adam.beta1, steps));
  const at::Tensor square_hat = matrix.square / (1 - std::pow(config.adam.beta2, steps));
  const at::Tensor update = mean_hat / (square_hat.sqrt() + config.adam.eps);
  for (int64_t i = 0; i < grid.row_blocks; ++i) {
    for (int64_t j = 0; j < grid.col_blocks; ++j) {
      shampoo_block_reference(block_of(update, grid, i, j), block_of(matrix.mean, grid, i, j),
                              block_of(gradient, grid, i, j), matrix,
                              size_t(i * grid.col_blocks + j), config);
    }
  }
  weight.copy_(weight * (1 - values.lr * values.weight_decay) - update * values.lr);
}

constinit const OptimizerRow kShampooRow{
    .name = "shampoo",
    .coverage = Coverage::linear_layers,
    .trainable = kMatrices,
    .make = make_shampoo,
    .state_bytes = shampoo_state_bytes,
    .period = precondition_period,
};

}  // namespace osp
