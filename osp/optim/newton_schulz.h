// Newton–Schulz: an approximation of the orthogonal polar factor U Vᵀ of a matrix U Σ Vᵀ.
//
// For each step's (a, b, c), with X normalised so that its singular values are at most about 1 and
// transposed if it has more rows than columns:
//   A = X Xᵀ;   X ← a X + (b A + c A A) X
// Normalisation is in fp32, the products are in bf16 with fp32 accumulation; every product and sum
// is rounded to bf16. The defaults are the paper's (arXiv 2506.19697).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "osp/base/fields.h"
#include "osp/optim/newton_schulz_settings.h"
#include "osp/optim/panel_iteration.h"

namespace osp {

// Options of a recipe. "preset" for coefficients and normalisation: those of the preset.
struct NewtonSchulzOptions {
  std::string preset = "osp-paper";
  int64_t ns_steps = 5;
  std::string coefficients = "preset";
  std::string normalisation = "preset";
  bool renormalize = false;

  // The preset stands at the beginning of the section, apart from the others.
  template <class Visitor, class Self>
  static void preset_field(Visitor& visit, Self& self) {
    visit("preset", self.preset, Choices{{"osp-paper", "tight"}},
          "Newton-Schulz settings: osp-paper (jordan, frobenius) or tight (you, s8)");
  }

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("ns_steps", self.ns_steps, Range{1, 5}, "Muon: Newton-Schulz iterations");
    visit("coefficients", self.coefficients, Choices{{"preset", "jordan", "you", "polar-express"}},
          "Muon: coefficients of the Newton-Schulz iteration");
    visit("normalisation", self.normalisation, Choices{{"preset", "frobenius", "s8"}},
          "Muon: divide by the Frobenius norm or by the fourth root of the norm of (X Xt)^2");
    visit(
        "renormalize", self.renormalize,
        "Muon: rescale each orthogonalised matrix to a Frobenius norm of sqrt(min(rows, columns))");
  }
};

// Operations of `steps` steps on a matrix of rows x cols, n the shorter side and m the longer: each
// 4 n² m + 2 n³.
double newton_schulz_flops(int64_t rows, int64_t cols, int64_t steps);

// Settings of a recipe. Error(usage) if ns_steps exceeds the coefficients of the set.
NewtonSchulz newton_schulz_settings(const NewtonSchulzOptions& options);

// The naive twin: one fp32 matrix [rows, cols] on any device, op by op, each result rounded to
// `type` (kDouble: exact enough for tests). Returns fp32.
at::Tensor newton_schulz_reference(const at::Tensor& update, const NewtonSchulz& settings,
                                   at::ScalarType type = at::kBFloat16);

// The iteration on other devices than the CPU: fp32 bank [count, rows, cols], all matrices at once
// by the library's batched products in bf16. Returns fp32.
at::Tensor newton_schulz_batched(const at::Tensor& bank, const NewtonSchulz& settings);

// The iteration on the CPU: fp32 bank [count, rows, cols], one matrix per thread. Returns fp32.
at::Tensor newton_schulz(const at::Tensor& bank, const NewtonSchulz& settings);

// One thread's buffers for matrices of one shape: write data(), run(), read data().
class Orthogonaliser {
 public:
  Orthogonaliser(const NewtonSchulz& settings, int64_t rows, int64_t cols);
  bool fits(int64_t rows, int64_t cols) const { return rows == rows_ && cols == cols_; }
  // Divisor of the update, given its Frobenius norm.
  float divisor(double norm) const {
    return static_cast<float>(settings_.norm_scale * norm + settings_.norm_eps);
  }
  // bf16 bits, row-major: before run() the normalised update, afterwards (at another
  // place) the result.
  uint16_t* data();
  // Iterates. The result is data() times the returned factor (1 unless renormalize).
  double run();

 private:
  void run_by_library();
  void step(double a, double b, double c, bool by_schatten_norm);
  double make_polynomial(double b, double c, bool by_schatten_norm);
  void round(at::Tensor& tensor) const;

  const NewtonSchulz& settings_;
  int64_t rows_, cols_;
  std::optional<PanelIteration> panels_;  // on CPUs with these products; the rest is then empty
  at::Tensor x_, next_;                   // [rows, cols]
  at::Tensor gram_, polynomial_;          // [min, min]
  at::Tensor staging_;                    // bf16 [rows, cols], only where the products are in fp32
};

// A matrix to be orthogonalised; `index` is for the caller's own use.
struct MatrixTask {
  int64_t index;
  int64_t rows, cols;
};

// Calls `body` once per task, on as many threads as ATen has, each with its own Orthogonaliser, and
// each product on one thread: results do not depend on the number of threads unless there are fewer
// tasks than threads (then the products are shared among the threads, one task after the other).
void for_each_matrix(std::vector<MatrixTask> tasks, const NewtonSchulz& settings,
                     const std::function<void(const MatrixTask&, Orthogonaliser&)>& body);

}  // namespace osp
