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
#include "osp/ops/parallel.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/decompositions.h"

namespace osp {
namespace {

// Of a bank, a slice of it or one matrix: [n, …]. Sides without a basis have undefined tensors.
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
  const at::Tensor image = at::bmm(factor, basis);
  const at::Tensor order = at::argsort((basis * image).sum(1), /*stable=*/true, 1, true)[0];
  const at::Tensor turned = std::get<0>(at::linalg_qr(image.index_select(2, order)));
  if (!all_finite(turned)) return 1;
  basis.copy_(turned);
  square.copy_(square.index_select(dim, order));
  return 0;
}

int64_t turn_bases(const SoapBank& matrix) {
  const at::Tensor mean = from_bases(matrix, matrix.mean);
  const int64_t failures = turn_basis(matrix.left_factor, matrix.left_basis, matrix.square, 1) +
                           turn_basis(matrix.right_factor, matrix.right_basis, matrix.square, 2);
  matrix.mean.copy_(to_bases(matrix, mean));
  return failures;
}

class Soap : public Optimizer {
 public:
  Soap(const std::vector<Bank*>& banks, const OptimizerGroup& group, const OptimConfig& config)
      : config_(config),
        num_gradients_(at::zeros({1}, at::kLong)),
        failures_(at::zeros({1}, at::kLong)) {
    state_.emplace_back(group.name + ".gradients", num_gradients_);
    state_.emplace_back(group.name + ".failures", failures_);
    for (const Bank* bank : banks) add(*bank, group.name);
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    const int64_t updates = num_gradients_.item<int64_t>();  // with this one
    num_gradients_.add_(1);
    double changed = 0;
    for (const SoapBank& bank : banks_) {
      for (const BankSlice slice : bank_slices(bank.weight)) {
        const SoapBank part = bank.of(slice);
        if (updates > 0) changed += update(part, static_cast<double>(updates), values);
        accumulate(part);
      }
    }
    last_update_norm_ = std::sqrt(changed);
    if (updates % config_.precondition_every == 0) refresh(updates == 0);
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
    const int64_t count = bank.master.size(0), rows = bank.master.size(1),
                  cols = bank.master.size(2);
    const at::TensorOptions options = bank.master.options();
    const auto factor = [&](int64_t size) { return at::zeros({count, size, size}, options); };
    const auto basis = [&](int64_t size) { return at::eye(size, options).repeat({count, 1, 1}); };
    SoapBank own{bank.master, bank.gradient, {}, {}, {}, {}, {}, {}};
    own.mean = keep("mean", at::zeros_like(bank.master));
    own.square = keep("square", at::zeros_like(bank.master));
    if (rows <= config_.soap_largest_basis) {
      own.left_factor = keep("left_factor", factor(rows));
      own.left_basis = keep("left_basis", basis(rows));
    }
    if (cols <= config_.soap_largest_basis) {
      own.right_factor = keep("right_factor", factor(cols));
      own.right_basis = keep("right_basis", basis(cols));
    }
    banks_.push_back(own);
  }

  // Adam's step t in the bases. Returns the squared norm of the change if measured.
  double update(SoapBank bank, double t, const StepValues& values) const {
    const at::Tensor gradient = to_bases(bank, bank.gradient);
    bank.mean.lerp_(gradient, 1 - config_.beta1);
    bank.square.mul_(config_.beta2).addcmul_(gradient, gradient, 1 - config_.beta2);
    const at::Tensor root =
        (bank.square / (1 - std::pow(config_.beta2, t))).sqrt_().add_(config_.eps);
    const at::Tensor direction = bank.mean / root;
    const double rate = values.lr / (1 - std::pow(config_.beta1, t));
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
    std::vector<SoapBank> matrices;
    for (const SoapBank& bank : banks_) {
      for (int64_t i = 0; i < bank.weight.size(0); ++i) matrices.push_back(bank.of({i, 1}));
    }
    std::vector<int64_t> failures(matrices.size());
    for_each_task(static_cast<int64_t>(matrices.size()), [&](int64_t i) {
      const SoapBank& matrix = matrices[size_t(i)];
      failures[size_t(i)] = first ? make_basis(matrix.left_factor, matrix.left_basis) +
                                        make_basis(matrix.right_factor, matrix.right_basis)
                                  : turn_bases(matrix);
    });
    for (const int64_t count : failures) failures_.add_(count);
  }

  OptimConfig config_;
  at::Tensor num_gradients_, failures_;
  std::vector<SoapBank> banks_;
  std::vector<std::pair<std::string, at::Tensor>> state_;
  double last_update_norm_ = 0;
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

}  // namespace

void soap_step_reference(at::Tensor& weight, const at::Tensor& gradient, SoapMatrix& matrix,
                         const StepValues& values, const OptimConfig& config) {
  const double beta = config.precondition_beta;
  const int64_t updates = matrix.num_gradients++;
  if (updates > 0) {
    const auto turned = [&](const at::Tensor& x) {
      return at::matmul(at::matmul(matrix.left_basis.t(), x), matrix.right_basis);
    };
    matrix.mean.copy_(matrix.mean * config.beta1 + gradient * (1 - config.beta1));
    matrix.square.copy_(matrix.square * config.beta2 +
                        turned(gradient).square() * (1 - config.beta2));
    const double t = static_cast<double>(updates);
    const at::Tensor mean_hat = turned(matrix.mean) / (1 - std::pow(config.beta1, t));
    const at::Tensor square_hat = matrix.square / (1 - std::pow(config.beta2, t));
    const at::Tensor step = mean_hat / (square_hat.sqrt() + config.eps);
    weight.copy_(weight * (1 - values.lr * values.weight_decay) -
                 at::matmul(at::matmul(matrix.left_basis, step), matrix.right_basis.t()) *
                     values.lr);
  }
  matrix.left_factor.copy_(matrix.left_factor * beta +
                           at::matmul(gradient, gradient.t()) * (1 - beta));
  matrix.right_factor.copy_(matrix.right_factor * beta +
                            at::matmul(gradient.t(), gradient) * (1 - beta));
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

std::unique_ptr<Optimizer> make_soap(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config) {
  return std::make_unique<Soap>(banks, group, config);
}

double soap_state_bytes(int64_t rows, int64_t cols, const OptimConfig& config) {
  const auto side = [&](int64_t size) {
    return size <= config.soap_largest_basis ? 2 * double(size) * double(size) : 0;
  };
  return 4 * (2 * double(rows) * double(cols) + side(rows) + side(cols));
}

}  // namespace osp
