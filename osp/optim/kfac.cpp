#include "osp/optim/kfac.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_inv.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/optim/bank_steps.h"
#include "osp/optim/config.h"
#include "osp/optim/decompositions.h"
#include "osp/optim/factor_tap.h"

namespace osp {
namespace {

// Tensors of one bank or of a slice of it; the first dimension counts matrices.
struct KfacBank {
  at::Tensor weight, gradient, mean;
  at::Tensor input_factor, input_inverse, output_factor, output_inverse;

  KfacBank of(BankSlice slice) const {
    return {slice.of(weight),        slice.of(gradient),      slice.of(mean),
            slice.of(input_factor),  slice.of(input_inverse), slice.of(output_factor),
            slice.of(output_inverse)};
  }
};

// Share of the old factor when the n-th is averaged in: a plain mean at first.
double kept_share(int64_t n, double beta) { return std::min(1 - 1 / static_cast<double>(n), beta); }

// The symmetric matrix whose entries on and above the diagonal are given.
at::Tensor mirrored(const at::Tensor& upper) { return upper.triu() + upper.triu(1).t(); }

// π of Martens and Grosse (section 6.3): divides the damping by the sizes of A and G.
double damping_ratio(const at::Tensor& input_factor, const at::Tensor& output_factor) {
  const double input = input_factor.diagonal().mean().item<double>();
  const double output = output_factor.diagonal().mean().item<double>();
  return input > 0 && output > 0 ? std::sqrt(input / output) : 1;
}

// Step length: the factor of a direction p with Σ p·m̂ = product.
double clipped_length(double product, double clip) {
  return clip > 0 && product > clip ? std::sqrt(clip / product) : 1;
}

// Replaces an inverse if there is one. Returns the number of failures.
int64_t refresh_inverse(const at::Tensor& factor, double damping, const at::Tensor& inverse) {
  const auto found = damped_inverse(factor, damping);
  if (!found) return 1;
  inverse.copy_(*found);
  return 0;
}

class Kfac : public StatefulOptimizer {
 public:
  Kfac(std::vector<Bank*> banks, const OptimizerGroup& group, const OptimConfig& config)
      : StatefulOptimizer(group, banks),
        config_(config),
        members_(std::move(banks)),
        taken_(keep_count("step")),
        gathered_(keep_count("gathered")),
        failures_(keep_count("failures")) {
    for (const Bank* bank : members_) add(*bank);
  }

  Tap* watch_step() override {
    tap_.restart(taken_.item<int64_t>() % config_.kfac.gather_every == 0);
    return &tap_;
  }

  void step(const StepValues& values) override {
    const at::NoGradGuard no_grad;
    // Average the factors of this step's passes, and renew the inverses if it is time.
    average_factors();
    if (taken_.item<int64_t>() % config_.precondition_every == 0) refresh();
    // Average the gradient.
    taken_.add_(1);
    for (KfacBank& bank : banks_) bank.mean.lerp_(bank.gradient, 1 - config_.adam.beta1);
    const double unbiased =
        1 / (1 - std::pow(config_.adam.beta1, static_cast<double>(taken_.item<int64_t>())));
    // Shorten the step so that its predicted change of the model stays below the clip.
    const double product = config_.kfac.clip > 0 ? direction_product() * unbiased * unbiased : 0;
    const double rate = values.lr * unbiased * clipped_length(product, config_.kfac.clip);
    // Move the weights.
    double changed = 0;
    for_each_slice(banks_, [&](const KfacBank& part) {
      changed += apply_update(part.weight, direction(part).mul_(rate), values);
    });
    set_squared_update(changed);
  }

 private:
  void add(const Bank& bank) {
    const int64_t count = bank.master.size(0);
    OSP_CHECK(count == static_cast<int64_t>(bank.members.size()), "members of {}", bank.name);
    const at::TensorOptions options = bank.master.options();
    const auto factor = [&](int64_t size) { return at::zeros({count, size, size}, options); };
    const auto inverse = [&](int64_t size) { return at::eye(size, options).repeat({count, 1, 1}); };
    KfacBank own{bank.master, bank.gradient, {}, {}, {}, {}, {}};
    own.mean = keep(bank, "mean", at::zeros_like(bank.master));
    own.input_factor = keep(bank, "input_factor", factor(bank.master.size(2)));
    own.input_inverse = keep(bank, "input_inverse", inverse(bank.master.size(2)));
    own.output_factor = keep(bank, "output_factor", factor(bank.master.size(1)));
    own.output_inverse = keep(bank, "output_inverse", inverse(bank.master.size(1)));
    banks_.push_back(own);
    for (const int64_t parameter : bank.members) tap_.watch(parameter);
  }

  // Averages the sums of the tap into A and G, and clears them.
  void average_factors() {
    if (tap_.sums().empty()) return;
    gathered_.add_(1);
    const double keep = kept_share(gathered_.item<int64_t>(), config_.precondition_beta);
    for (size_t b = 0; b < banks_.size(); ++b) {
      for (size_t i = 0; i < members_[b]->members.size(); ++i) {
        const int64_t parameter = members_[b]->members[i];
        OSP_CHECK(tap_.sums().contains(parameter), "linear layer {} was not seen", parameter);
        const FactorSums& sums = tap_.sums().at(parameter);
        OSP_CHECK(sums.output_gradients.defined(), "linear layer {} had no gradient", parameter);
        const double tokens = static_cast<double>(sums.num_tokens);
        banks_[b].input_factor[int64_t(i)].lerp_(mirrored(sums.inputs) / tokens, 1 - keep);
        banks_[b].output_factor[int64_t(i)].lerp_(mirrored(sums.output_gradients) * tokens,
                                                  1 - keep);
      }
    }
    tap_.restart(false);
  }

  // New inverses of every matrix, each on one thread.
  void refresh() {
    const std::vector<KfacBank> matrices = single_matrices(banks_);
    const double damping = std::sqrt(config_.kfac.damping);
    failures_.add_(count_failures(static_cast<int64_t>(matrices.size()), [&](int64_t i) {
      const KfacBank& m = matrices[size_t(i)];
      const double ratio = damping_ratio(m.input_factor[0], m.output_factor[0]);
      return refresh_inverse(m.input_factor[0], ratio * damping, m.input_inverse[0]) +
             refresh_inverse(m.output_factor[0], damping / ratio, m.output_inverse[0]);
    }));
  }

  // G⁻ m A⁻.
  static at::Tensor direction(const KfacBank& part) {
    return at::bmm(at::bmm(part.output_inverse, part.mean), part.input_inverse);
  }

  // Σ (G⁻ m A⁻) · m over the group. The directions are made twice, rather than kept for all banks.
  double direction_product() const {
    double product = 0;
    for_each_slice(banks_, [&](const KfacBank& part) {
      product += direction(part).mul_(part.mean).sum(at::kDouble).item<double>();
    });
    return product;
  }

  OptimConfig config_;
  std::vector<Bank*> members_;
  at::Tensor taken_, gathered_, failures_;
  std::vector<KfacBank> banks_;
  FactorTap tap_;
};

at::Tensor damped_inverse_reference(const at::Tensor& x, double damping) {
  return at::linalg_inv(x + at::eye(x.size(0), x.options()) * damping);
}

void average_reference(KfacMatrix& m, const at::Tensor& x, const at::Tensor& dy, double keep) {
  const double tokens = static_cast<double>(x.size(0));
  m.input_factor = m.input_factor * keep + at::matmul(x.t(), x) * ((1 - keep) / tokens);
  m.output_factor = m.output_factor * keep + at::matmul(dy.t(), dy) * ((1 - keep) * tokens);
}

std::unique_ptr<Optimizer> make_kfac(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config) {
  return std::make_unique<Kfac>(std::move(banks), group, config);
}

double kfac_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                        const OptimConfig& /*config*/) {
  const double out = static_cast<double>(rows), in = static_cast<double>(cols);
  return 4 * (out * in + 2 * out * out + 2 * in * in);
}

bool is_in_linear_layer(const ParameterSpec& spec) { return is_linear_layer(spec.kind); }

}  // namespace

void kfac_step_reference(std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
                         const std::vector<at::Tensor>& inputs,
                         const std::vector<at::Tensor>& output_gradients,
                         std::vector<KfacMatrix>& matrices, int64_t t, const StepValues& values,
                         const OptimConfig& config) {
  const double damping = std::sqrt(config.kfac.damping);
  const double unbiased = 1 / (1 - std::pow(config.adam.beta1, static_cast<double>(t)));
  std::vector<at::Tensor> directions;
  double product = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    KfacMatrix& m = matrices[i];
    average_reference(m, inputs[i], output_gradients[i], kept_share(t, config.precondition_beta));
    if ((t - 1) % config.precondition_every == 0) {
      const double ratio = damping_ratio(m.input_factor, m.output_factor);
      m.input_inverse = damped_inverse_reference(m.input_factor, damping * ratio);
      m.output_inverse = damped_inverse_reference(m.output_factor, damping / ratio);
    }
    m.mean = m.mean * config.adam.beta1 + gradients[i] * (1 - config.adam.beta1);
    const at::Tensor mean_hat = m.mean * unbiased;
    directions.push_back(at::matmul(at::matmul(m.output_inverse, mean_hat), m.input_inverse));
    product += (directions.back() * mean_hat).sum().item<double>();
  }
  const double rate = values.lr * clipped_length(product, config.kfac.clip);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = weights[i] * (1 - values.lr * values.weight_decay) - directions[i] * rate;
  }
}

constinit const OptimizerRow kKfacRow{
    .name = "kfac",
    .coverage = Coverage::linear_layers,
    .trainable = {.includes = is_in_linear_layer,
                  .needs = "a linear layer",
                  .instead = "adam or adafactor"},
    .make = make_kfac,
    .state_bytes = kfac_state_bytes,
    .watches_passes = true,
    .period = precondition_period,
};

}  // namespace osp
