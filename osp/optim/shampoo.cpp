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

#include "osp/base/error.h"
#include "osp/ops/parallel.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/block_grid.h"
#include "osp/optim/decompositions.h"

namespace osp {
namespace {

constexpr double kRoot = 4;           // L and R share the square root of the second moments
constexpr double kLeastNorm = 1e-30;  // of a direction that is scaled

// Of a bank or a slice of it. Factors and roots: [n, blocks of a matrix, size, size].
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

class Shampoo : public Optimizer {
 public:
  Shampoo(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : config_(config), taken_(at::zeros({1}, at::kLong)), failures_(at::zeros({1}, at::kLong)) {
    state_.emplace_back(group.name + ".step", taken_);
    state_.emplace_back(group.name + ".failures", failures_);
    for (const Bank* bank : banks) add(*bank, group.name);
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    taken_.add_(1);
    const int64_t t = taken_.item<int64_t>();
    for_each_slice([&](const ShampooBank& part) { accumulate(part); });
    if (t % config_.precondition_every == 0) refresh(t);
    double changed = 0;
    for_each_slice([&](const ShampooBank& part) { changed += update(part, t, values); });
    last_update_norm_ = std::sqrt(changed);
  }

  std::vector<std::pair<std::string, at::Tensor>> state() const override { return state_; }
  double last_update_norm() const override { return last_update_norm_; }

 private:
  void add(const Bank& bank, const std::string& group) {
    OSP_CHECK(bank.gradient.defined(), "bank {} has no gradient", bank.name);
    const auto keep = [&](const char* what, const at::Tensor& tensor) {
      state_.emplace_back(fmt::format("{}.{}.{}", group, bank.name, what), tensor);
      return tensor;
    };
    const BlockGrid grid =
        make_block_grid(bank.master.size(1), bank.master.size(2), config_.shampoo_block);
    const int64_t count = bank.master.size(0), blocks = grid.blocks_per_matrix();
    const at::TensorOptions options = bank.master.options();
    const auto factor = [&](int64_t size) {
      return at::zeros({count, blocks, size, size}, options);
    };
    const auto root = [&](int64_t size) {
      return at::eye(size, options).repeat({count, blocks, 1, 1});
    };
    ShampooBank own{bank.master, bank.gradient, {}, {}, {}, {}, {}, {}, grid};
    own.mean = keep("mean", at::zeros_like(bank.master));
    own.square = keep("square", at::zeros_like(bank.master));
    own.left_factor = keep("left_factor", factor(grid.block_rows));
    own.left_root = keep("left_root", root(grid.block_rows));
    own.right_factor = keep("right_factor", factor(grid.block_cols));
    own.right_root = keep("right_root", root(grid.block_cols));
    banks_.push_back(own);
  }

  template <class Task>
  void for_each_slice(const Task& task) const {
    for (const ShampooBank& bank : banks_) {
      for (const BankSlice slice : bank_slices(bank.weight)) task(bank.of(slice));
    }
  }

  void accumulate(const ShampooBank& part) const {
    const double beta = config_.precondition_beta;
    const at::Tensor g = part.grid.cut(part.gradient);
    part.left_factor.flatten(0, 1).baddbmm_(g, g.mT(), beta, 1 - beta);
    part.right_factor.flatten(0, 1).baddbmm_(g.mT(), g, beta, 1 - beta);
  }

  // New roots of every block, each on one thread.
  void refresh(int64_t t) {
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
    const double seen = 1 - std::pow(config_.precondition_beta, static_cast<double>(t));
    std::vector<int64_t> failures(factors_and_roots.size());
    for_each_task(static_cast<int64_t>(failures.size()), [&](int64_t i) {
      auto& [factor, root] = factors_and_roots[size_t(i)];
      const auto found = inverse_root(factor / seen, kRoot, config_.shampoo_eps);
      if (found) {
        root.copy_(*found);
      } else {
        failures[size_t(i)] = 1;
      }
    });
    for (const int64_t count : failures) failures_.add_(count);
  }

  // Returns the squared norm of the change if measured.
  double update(ShampooBank part, int64_t t, const StepValues& values) const {
    const double steps = static_cast<double>(t);
    part.mean.lerp_(part.gradient, 1 - config_.beta1);
    part.square.mul_(config_.beta2).addcmul_(part.gradient, part.gradient, 1 - config_.beta2);
    const at::Tensor root =
        (part.square / (1 - std::pow(config_.beta2, steps))).sqrt_().add_(config_.eps);
    at::Tensor update = (part.mean / root).div_(1 - std::pow(config_.beta1, steps));
    if (t >= config_.precondition_every) update = grafted(part, update);
    return apply_update(part.weight, update.mul_(values.lr), values);
  }

  // The preconditioned mean, each block as long as the same block of `step`.
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
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
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
    matrix.left_roots[b] = inverse_root(left / seen, kRoot, config.shampoo_eps).value();
    matrix.right_roots[b] = inverse_root(right / seen, kRoot, config.shampoo_eps).value();
  }
  if (matrix.t < config.precondition_every) return;
  const at::Tensor direction =
      at::matmul(at::matmul(matrix.left_roots[b], mean), matrix.right_roots[b]);
  update.copy_(direction * (at::linalg_vector_norm(update) / at::linalg_vector_norm(direction)));
}

}  // namespace

ShampooMatrix make_shampoo_matrix(const at::Tensor& weight, const OptimConfig& config) {
  const BlockGrid grid = make_block_grid(weight.size(0), weight.size(1), config.shampoo_block);
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
  const BlockGrid grid = make_block_grid(weight.size(0), weight.size(1), config.shampoo_block);
  const double steps = static_cast<double>(++matrix.t);
  matrix.mean = matrix.mean * config.beta1 + gradient * (1 - config.beta1);
  matrix.square = matrix.square * config.beta2 + gradient.square() * (1 - config.beta2);
  const at::Tensor mean_hat = matrix.mean / (1 - std::pow(config.beta1, steps));
  const at::Tensor square_hat = matrix.square / (1 - std::pow(config.beta2, steps));
  const at::Tensor update = mean_hat / (square_hat.sqrt() + config.eps);
  for (int64_t i = 0; i < grid.row_blocks; ++i) {
    for (int64_t j = 0; j < grid.col_blocks; ++j) {
      shampoo_block_reference(block_of(update, grid, i, j), block_of(matrix.mean, grid, i, j),
                              block_of(gradient, grid, i, j), matrix,
                              size_t(i * grid.col_blocks + j), config);
    }
  }
  weight.copy_(weight * (1 - values.lr * values.weight_decay) - update * values.lr);
}

std::unique_ptr<Optimizer> make_shampoo(std::vector<Bank*> banks, const OptimizerGroup& group,
                                        const OptimConfig& config) {
  return std::make_unique<Shampoo>(banks, group, config);
}

double shampoo_state_bytes(int64_t rows, int64_t cols, const OptimConfig& config) {
  const BlockGrid grid = make_block_grid(rows, cols, config.shampoo_block);
  const double block = double(grid.block_rows) * double(grid.block_rows) +
                       double(grid.block_cols) * double(grid.block_cols);
  return 4 * (2 * double(rows) * double(cols) + 2 * double(grid.blocks_per_matrix()) * block);
}

}  // namespace osp
