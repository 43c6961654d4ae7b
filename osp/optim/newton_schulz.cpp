#include "osp/optim/newton_schulz.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "osp/base/error.h"
#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"
#include "osp/optim/momentum_kernels.h"
#include "osp/optim/symmetric_product.h"

namespace osp {
namespace {

// Coefficient sets; the paper's is jordan, whose one triple serves every step.
using Triples = std::vector<std::array<double, 3>>;

const Triples& coefficient_set(const std::string& name) {
  static const Triples jordan = {{3.4445, -4.7750, 2.0315}};
  static const Triples you = {{4.0848, -6.8946, 2.9270},
                              {3.9505, -6.3029, 2.6377},
                              {3.7418, -5.5913, 2.3037},
                              {2.8769, -3.1427, 1.2046},
                              {2.8366, -3.0525, 1.2012}};
  static const Triples polar_express = {{8.15655, -22.48329, 15.87877},
                                        {4.04293, -2.80892, 0.50002},
                                        {3.89167, -2.77248, 0.50606},
                                        {3.28575, -2.36813, 0.46449},
                                        {2.34654, -1.70978, 0.42324}};
  return name == "you" ? you : name == "polar-express" ? polar_express : jordan;
}

// Who multiplies bf16 matrices: panels by AVX-512's instructions; the library in bf16, which uses
// AMX; the library in fp32 where the CPU has no bf16 products.
enum class ProductBackend { panels, bf16, fp32 };

ProductBackend product_backend() {
  if (active_isa() == Isa::amx) return ProductBackend::bf16;
  return PanelIteration::is_best() ? ProductBackend::panels : ProductBackend::fp32;
}

double renormalising_factor(double sum_of_squares, int64_t rows, int64_t cols) {
  return std::sqrt(static_cast<double>(std::min(rows, cols))) / (std::sqrt(sum_of_squares) + 1e-8);
}

}  // namespace

double newton_schulz_flops(int64_t rows, int64_t cols, int64_t steps) {
  const auto n = static_cast<double>(std::min(rows, cols));
  const auto m = static_cast<double>(std::max(rows, cols));
  return static_cast<double>(steps) * (4 * n * n * m + 2 * n * n * n);
}

NewtonSchulz newton_schulz_settings(const NewtonSchulzOptions& options) {
  const bool tight = options.preset == "tight";
  const std::string name =
      options.coefficients == "preset" ? (tight ? "you" : "jordan") : options.coefficients;
  const std::string normalisation =
      options.normalisation == "preset" ? (tight ? "s8" : "frobenius") : options.normalisation;
  const Triples& set = coefficient_set(name);
  if (name != "jordan" && options.ns_steps > static_cast<int64_t>(set.size())) {
    fail(ErrorCode::usage,
         "optim.ns_steps = {}: the coefficients \"{}\" have {} steps; use at most those, or jordan",
         options.ns_steps, name, set.size());
  }
  NewtonSchulz settings;
  for (int64_t i = 0; i < options.ns_steps; ++i) {
    settings.steps.push_back(set[name == "jordan" ? 0 : i]);
  }
  if (name == "polar-express") {
    settings.norm_scale = 1.02;
    settings.norm_eps = 1e-6;
    settings.pair_first = false;  // its first step is too steep: measured to be less exact
  }
  settings.by_schatten_norm = normalisation == "s8";
  settings.renormalize = options.renormalize;
  return settings;
}

at::Tensor newton_schulz_reference(const at::Tensor& update, const NewtonSchulz& settings,
                                   at::ScalarType type) {
  const bool tall = update.size(0) > update.size(1);
  const at::Tensor wide = tall ? update.t() : update;
  const at::Tensor norm = at::linalg_vector_norm(wide) * settings.norm_scale + settings.norm_eps;
  at::Tensor x = (wide / norm).to(type);
  for (size_t i = 0; i < settings.steps.size(); ++i) {
    const auto [a, b, c] = settings.steps[i];
    const at::Tensor gram = at::mm(x, x.t());
    const at::Tensor squared = at::mm(gram, gram);
    double s = 1;
    if (settings.by_schatten_norm && i == 0) {
      s = settings.norm_scale *
          schatten_norm(at::linalg_vector_norm(squared.to(at::kDouble)).item<double>());
    }
    const at::Tensor polynomial = gram * (b / (s * s)) + squared * (c / (s * s * s * s));
    x = x * (a / s) + at::mm(polynomial, x) * (1 / s);
  }
  at::Tensor result = x.to(at::kFloat);
  if (settings.renormalize) {
    result = result * renormalising_factor(result.square().sum(at::kDouble).item<double>(),
                                           update.size(0), update.size(1));
  }
  return tall ? result.t().contiguous() : result;
}

at::Tensor newton_schulz_batched(const at::Tensor& bank, const NewtonSchulz& settings) {
  // Turn tall matrices, so that the Gram matrices are of the short side.
  const bool tall = bank.size(1) > bank.size(2);
  const at::Tensor wide = tall ? bank.mT() : bank;
  const auto norms_of = [](const at::Tensor& x, at::ScalarType type) {
    return at::linalg_vector_norm(x, 2, at::IntArrayRef{1, 2}, true, type);
  };
  // Divide each matrix by its norm.
  const at::Tensor norms = norms_of(wide, at::kFloat) * settings.norm_scale + settings.norm_eps;
  at::Tensor x = (wide / norms).to(at::kBFloat16);
  // Iterate X ← a X + (b G + c G²) X with G = X Xᵀ.
  for (size_t i = 0; i < settings.steps.size(); ++i) {
    const auto [a, b, c] = settings.steps[i];
    const at::Tensor gram = at::bmm(x, x.mT());
    if (settings.by_schatten_norm && i == 0) {
      // The first step divides by the Schatten norm, which G² gives.
      const at::Tensor squared = at::bmm(gram, gram);
      const at::Tensor s = norms_of(squared, at::kDouble).pow(0.25).clamp_min(schatten_norm(0)) *
                           settings.norm_scale;
      const at::Tensor polynomial =
          (gram * (b / s.pow(2)) + squared * (c / s.pow(4))).to(at::kBFloat16);
      x = (x * (a / s) + at::bmm(polynomial, x) / s).to(at::kBFloat16);
    } else {
      x = at::baddbmm(x, at::baddbmm(gram, gram, gram, b, c), x, a, 1);
    }
  }
  // Give the result the norm of an orthogonal matrix, if asked for, and its own shape.
  at::Tensor result = x.to(at::kFloat);
  if (settings.renormalize) {
    const double length = std::sqrt(static_cast<double>(std::min(bank.size(1), bank.size(2))));
    result = result * (length / (norms_of(result, at::kDouble) + 1e-8)).to(at::kFloat);
  }
  return tall ? result.mT() : result;
}

Orthogonaliser::Orthogonaliser(const NewtonSchulz& settings, int64_t rows, int64_t cols)
    : settings_(settings), rows_(rows), cols_(cols) {
  if (product_backend() == ProductBackend::panels) {
    panels_.emplace(rows, cols, share_tasks);
    return;
  }
  const auto bf16 = at::TensorOptions().dtype(at::kBFloat16);
  const bool wide = product_backend() == ProductBackend::fp32;
  const auto compute = wide ? bf16.dtype(at::kFloat) : bf16;
  const int64_t least = std::min(rows, cols);
  x_ = at::empty({rows, cols}, compute);
  next_ = at::empty({rows, cols}, compute);
  gram_ = at::empty({least, least}, compute);
  polynomial_ = at::empty({least, least}, compute);
  if (wide) staging_ = at::empty({rows, cols}, bf16);
}

uint16_t* Orthogonaliser::data() {
  if (panels_) return panels_->data();
  at::Tensor& tensor = staging_.defined() ? staging_ : x_;
  return reinterpret_cast<uint16_t*>(tensor.data_ptr<at::BFloat16>());
}

// fp32 stands in for bf16 on a CPU without bf16 products: round where bf16 would.
void Orthogonaliser::round(at::Tensor& tensor) const {
  if (staging_.defined()) tensor.copy_(tensor.to(at::kBFloat16));
}

// Sets the polynomial to (b/s²) A + (c/s⁴) A A and returns s: the Schatten norm, or 1 without it.
double Orthogonaliser::make_polynomial(double b, double c, bool by_schatten_norm) {
  if (!by_schatten_norm) {
    symmetric_product(polynomial_, gram_, gram_, c, gram_, b);
    round(polynomial_);
    return 1;
  }
  symmetric_product(polynomial_, gram_, gram_, 1, gram_, 0);
  round(polynomial_);
  const double norm = at::linalg_vector_norm(polynomial_.to(at::kFloat)).item<double>();
  const double s = settings_.norm_scale * schatten_norm(norm);
  polynomial_.mul_(c / (s * s * s * s)).add_(gram_, b / (s * s));
  round(polynomial_);
  return s;
}

// A tall X stays as it lies: with A = Xᵀ X, the transpose of P Xᵀ is X Pᵀ.
void Orthogonaliser::step(double a, double b, double c, bool by_schatten_norm) {
  const bool tall = rows_ > cols_;
  const at::Tensor wide = tall ? x_.t() : x_;
  symmetric_product(gram_, wide, wide.t(), 1, gram_, 0);
  round(gram_);
  const double s = make_polynomial(b, c, by_schatten_norm);
  if (tall) {
    at::addmm_out(next_, x_, x_, polynomial_.t(), a / s, 1 / s);
  } else {
    at::addmm_out(next_, x_, polynomial_, x_, a / s, 1 / s);
  }
  round(next_);
  std::swap(x_, next_);
}

void Orthogonaliser::run_by_library() {
  if (staging_.defined()) x_.copy_(staging_);
  for (size_t i = 0; i < settings_.steps.size(); ++i) {
    const auto [a, b, c] = settings_.steps[i];
    step(a, b, c, i == 0 && settings_.by_schatten_norm);
  }
  if (staging_.defined()) staging_.copy_(x_);
}

double Orthogonaliser::run() {
  if (panels_) {
    panels_->run(settings_);
  } else {
    run_by_library();
  }
  if (!settings_.renormalize) return 1;
  return renormalising_factor(momentum_kernels::sum_of_squares_bf16(data(), rows_ * cols_), rows_,
                              cols_);
}

void for_each_matrix(std::vector<MatrixTask> tasks, const NewtonSchulz& settings,
                     const std::function<void(const MatrixTask&, Orthogonaliser&)>& body) {
  // The most expensive first, so that no thread is left alone with a large one.
  const auto cost = [](const MatrixTask& t) {
    return std::max(t.rows, t.cols) * std::min(t.rows, t.cols) * std::min(t.rows, t.cols);
  };
  std::stable_sort(tasks.begin(), tasks.end(),
                   [&](const MatrixTask& l, const MatrixTask& r) { return cost(l) > cost(r); });
  std::atomic<size_t> next = 0;
  const auto work = [&](int64_t, int64_t) {
    const at::NoGradGuard no_grad;
    std::optional<Orthogonaliser> orthogonaliser;
    for (size_t i = next++; i < tasks.size(); i = next++) {
      const MatrixTask& task = tasks[i];
      if (!orthogonaliser || !orthogonaliser->fits(task.rows, task.cols)) {
        orthogonaliser.emplace(settings, task.rows, task.cols);
      }
      body(task, *orthogonaliser);
    }
  };
  // With fewer matrices than threads, the threads share each product instead, unless bits
  // matter more.
  const int64_t workers = at::get_num_threads();
  if (static_cast<int64_t>(tasks.size()) < workers && settings.threads_share_matrices) {
    work(0, 1);
  } else {
    at::parallel_for(0, workers, 1, work);
  }
}

at::Tensor newton_schulz(const at::Tensor& bank, const NewtonSchulz& settings) {
  OSP_CHECK(bank.dim() == 3 && bank.is_contiguous() && bank.scalar_type() == at::kFloat,
            "a contiguous fp32 bank [count, rows, cols]");
  at::Tensor result = at::empty_like(bank);
  const int64_t size = bank.size(1) * bank.size(2);
  std::vector<MatrixTask> tasks;
  for (int64_t i = 0; i < bank.size(0); ++i) tasks.push_back({i, bank.size(1), bank.size(2)});
  for_each_matrix(tasks, settings, [&](const MatrixTask& task, Orthogonaliser& orthogonaliser) {
    const float* update = bank.data_ptr<float>() + task.index * size;
    float* out = result.data_ptr<float>() + task.index * size;
    const double norm = std::sqrt(momentum_kernels::sum_of_squares(update, size));
    momentum_kernels::normalise(update, update, orthogonaliser.data(), size, 0, false,
                                orthogonaliser.divisor(norm));
    const double factor = orthogonaliser.run();
    std::fill(out, out + size, 0.0f);
    momentum_kernels::apply(out, orthogonaliser.data(), size, 0, static_cast<float>(-factor));
  });
  return result;
}

}  // namespace osp
