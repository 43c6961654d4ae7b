#include "osp/optim/soap.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/config.h"
#include "osp/optim/decompositions.h"

namespace osp {
namespace {

// Tensors of one bank, of a slice of it, or of one matrix; the first dimension counts matrices.
// Sides without a basis have undefined tensors.
struct SoapBank {
  at::Tensor weight, gradient, mean, square;
  at::Tensor left_factor, left_basis, right_factor, right_basis;

  SoapBank of(BankSlice slice) const {
    return {slice.of(weight),       slice.of(gradient),    slice.of(mean),
            slice.of(square),       slice.of(left_factor), slice.of(left_basis),
            slice.of(right_factor), slice.of(right_basis)};
  }
};

// Q_Lᵀ x Q_R.
at::Tensor to_bases(const SoapBank& bank, const at::Tensor& x) {
  const at::Tensor y = bank.left_basis.defined() ? at::bmm(bank.left_basis.mT(), x) : x;
  return bank.right_basis.defined() ? at::bmm(y, bank.right_basis) : y;
}

// Q_L x Q_Rᵀ.
at::Tensor from_bases(const SoapBank& bank, const at::Tensor& x) {
  const at::Tensor y = bank.left_basis.defined() ? at::bmm(bank.left_basis, x) : x;
  return bank.right_basis.defined() ? at::bmm(y, bank.right_basis.mT()) : y;
}

// Sets a basis [1, n, n] to the eigenvectors of its factor. Returns the number of failures.
int64_t make_basis(const at::Tensor& factor, at::Tensor basis) {
  if (!basis.defined()) return 0;
  const auto pairs = eigen_pairs(factor[0]);
  if (!pairs) return 1;
  basis[0].copy_(pairs->vectors.flip(1));
  return 0;
}

// One orthogonal iteration of a basis [1, n, n]; v' is sorted along its dimension `dim`. Returns
// the number of failures.
int64_t turn_basis(const at::Tensor& factor, at::Tensor basis, at::Tensor square, int64_t dim) {
  if (!basis.defined()) return 0;
  // Sort the columns by qᵀ L q, falling.
  const at::Tensor image = at::bmm(factor, basis);
  const at::Tensor order = at::argsort((basis * image).sum(1), /*stable=*/true, 1, true)[0];
  // Take the orthonormal factor of L Q, unless it fails.
  const at::Tensor turned = std::get<0>(at::linalg_qr(image.index_select(2, order)));
  if (!all_finite(turned)) return 1;
  basis.copy_(turned);
  square.copy_(square.index_select(dim, order));
  return 0;
}

// Turns both bases of one matrix, and m' from the old ones into the new ones. Returns the
// number of failures.
int64_t turn_bases(const SoapBank& matrix) {
  const at::Tensor mean = from_bases(matrix, matrix.mean);
  const int64_t failures = turn_basis(matrix.left_factor, matrix.left_basis, matrix.square, 1) +
                           turn_basis(matrix.right_factor, matrix.right_basis, matrix.square, 2);
  matrix.mean.copy_(to_bases(matrix, mean));
  return failures;
}

class Soap : public StatefulOptimizer {
 public:
  Soap(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks),
        config_(config),
        num_gradients_(keep_count("gradients")),
        failures_(keep_count("failures")) {
    for (const Bank* bank : banks) add(*bank);
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    const int64_t updates = num_gradients_.item<int64_t>();  // with this one
    num_gradients_.add_(1);
    // Move the weights, except with the first gradient; then add the gradient to the factors.
    double changed = 0;
    for_each_slice(banks_, [&](const SoapBank& part) {
      if (updates > 0) changed += update(part, static_cast<double>(updates), values);
      accumulate(part);
    });
    set_squared_update(changed);
    // Make the bases, or turn them if it is time.
    if (updates % config_.precondition_every == 0) refresh(updates == 0);
  }

 private:
  void add(const Bank& bank) {
    const int64_t count = bank.master.size(0), rows = bank.master.size(1),
                  cols = bank.master.size(2);
    const at::TensorOptions options = bank.master.options();
    const auto factor = [&](int64_t size) { return at::zeros({count, size, size}, options); };
    const auto basis = [&](int64_t size) { return at::eye(size, options).repeat({count, 1, 1}); };
    SoapBank own{bank.master, bank.gradient, {}, {}, {}, {}, {}, {}};
    own.mean = keep(bank, "mean", at::zeros_like(bank.master));
    own.square = keep(bank, "square", at::zeros_like(bank.master));
    if (rows <= config_.soap.largest_basis) {
      own.left_factor = keep(bank, "left_factor", factor(rows));
      own.left_basis = keep(bank, "left_basis", basis(rows));
    }
    if (cols <= config_.soap.largest_basis) {
      own.right_factor = keep(bank, "right_factor", factor(cols));
      own.right_basis = keep(bank, "right_basis", basis(cols));
    }
    banks_.push_back(own);
  }

  // Adam's step t in the bases. Returns the squared norm of the change if measured.
  double update(SoapBank bank, double t, const StepValues& values) const {
    // Average the gradient and its square in the bases.
    const at::Tensor gradient = to_bases(bank, bank.gradient);
    bank.mean.lerp_(gradient, 1 - config_.adam.beta1);
    bank.square.mul_(config_.adam.beta2).addcmul_(gradient, gradient, 1 - config_.adam.beta2);
    // Form Adam's step there, and turn it back.
    const at::Tensor root =
        (bank.square / (1 - std::pow(config_.adam.beta2, t))).sqrt_().add_(config_.adam.eps);
    const at::Tensor direction = bank.mean / root;
    const double rate = values.lr / (1 - std::pow(config_.adam.beta1, t));
    return apply_update(bank.weight, from_bases(bank, direction).mul_(rate), values);
  }

  void accumulate(SoapBank bank) const {
    const double beta = config_.precondition_beta;
    const at::Tensor& g = bank.gradient;
    if (bank.left_factor.defined()) bank.left_factor.baddbmm_(g, g.mT(), beta, 1 - beta);
    if (bank.right_factor.defined()) bank.right_factor.baddbmm_(g.mT(), g, beta, 1 - beta);
  }

  // New bases of every matrix, each on one thread.
  void refresh(bool first) {
    const std::vector<SoapBank> matrices = single_matrices(banks_);
    failures_.add_(count_failures(static_cast<int64_t>(matrices.size()), [&](int64_t i) {
      const SoapBank& matrix = matrices[size_t(i)];
      return first ? make_basis(matrix.left_factor, matrix.left_basis) +
                         make_basis(matrix.right_factor, matrix.right_basis)
                   : turn_bases(matrix);
    }));
  }

  OptimConfig config_;
  at::Tensor num_gradients_, failures_;
  std::vector<SoapBank> banks_;
};

// The new basis and the order of the old one's columns.
std::pair<at::Tensor, at::Tensor> turned_basis_reference(const at::Tensor& factor,
                                                         const at::Tensor& basis) {
  const at::Tensor estimates = at::matmul(basis.t(), at::matmul(factor, basis)).diag();
  const at::Tensor order = at::argsort(estimates, /*stable=*/true, 0, true);
  const at::Tensor sorted = basis.index_select(1, order);
  return {std::get<0>(at::linalg_qr(at::matmul(factor, sorted))), order};
}

at::Tensor eigenbasis_reference(const at::Tensor& factor) {
  const auto pairs = eigen_pairs(factor);
  OSP_CHECK(pairs.has_value(), "no eigenvectors");
  return pairs->vectors.flip(1);
}

std::unique_ptr<Optimizer> make_soap(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config) {
  return std::make_unique<Soap>(banks, group, config);
}

double soap_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                        const OptimConfig& config) {
  const auto side = [&](int64_t size) {
    return size <= config.soap.largest_basis ? 2 * double(size) * double(size) : 0;
  };
  return 4 * (2 * double(rows) * double(cols) + side(rows) + side(cols));
}

}  // namespace

void soap_step_reference(at::Tensor& weight, const at::Tensor& gradient, SoapMatrix& matrix,
                         const StepValues& values, const OptimConfig& config) {
  const double beta = config.precondition_beta;
  const int64_t updates = matrix.num_gradients++;
  if (updates > 0) {
    // Update the means: of g as it is, of its square in the bases.
    const auto turned = [&](const at::Tensor& x) {
      return at::matmul(at::matmul(matrix.left_basis.t(), x), matrix.right_basis);
    };
    matrix.mean.copy_(matrix.mean * config.adam.beta1 + gradient * (1 - config.adam.beta1));
    matrix.square.copy_(matrix.square * config.adam.beta2 +
                        turned(gradient).square() * (1 - config.adam.beta2));
    // Adam's step in the bases, turned back.
    const double t = static_cast<double>(updates);
    const at::Tensor mean_hat = turned(matrix.mean) / (1 - std::pow(config.adam.beta1, t));
    const at::Tensor square_hat = matrix.square / (1 - std::pow(config.adam.beta2, t));
    const at::Tensor step = mean_hat / (square_hat.sqrt() + config.adam.eps);
    weight.copy_(weight * (1 - values.lr * values.weight_decay) -
                 at::matmul(at::matmul(matrix.left_basis, step), matrix.right_basis.t()) *
                     values.lr);
  }
  // Update the means of g gᵀ and gᵀ g.
  matrix.left_factor.copy_(matrix.left_factor * beta +
                           at::matmul(gradient, gradient.t()) * (1 - beta));
  matrix.right_factor.copy_(matrix.right_factor * beta +
                            at::matmul(gradient.t(), gradient) * (1 - beta));
  // The first gradient is spent on the bases; later they are turned from time to time.
  if (updates == 0) {
    matrix.left_basis = eigenbasis_reference(matrix.left_factor);
    matrix.right_basis = eigenbasis_reference(matrix.right_factor);
  } else if (updates % config.precondition_every == 0) {
    const auto [left, rows] = turned_basis_reference(matrix.left_factor, matrix.left_basis);
    const auto [right, cols] = turned_basis_reference(matrix.right_factor, matrix.right_basis);
    matrix.left_basis = left;
    matrix.right_basis = right;
    matrix.square = matrix.square.index_select(0, rows).index_select(1, cols);
  }
}

constinit const OptimizerRow kSoapRow{
    .name = "soap",
    .coverage = Coverage::linear_layers,
    .trainable = kMatrices,
    .make = make_soap,
    .state_bytes = soap_state_bytes,
    .period = precondition_period,
};

}  // namespace osp
