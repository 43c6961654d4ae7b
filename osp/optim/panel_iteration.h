// The Newton–Schulz step on a matrix that stays in panels (osp/ops/panel_kernels.h), for CPUs with
// AVX-512's bf16 products.
//
// X is seen with no more rows than columns (n x m). Products of the Gram matrix are symmetric: the
// tiles on and below the diagonal are computed and mirrored, which is half of the work. X is kept
// twice, in panels of its columns and in panels of its rows, the second being what X Xᵀ needs; both
// are written when a tile is finished, so that nothing is transposed or packed between the steps.
//
// Without the tensor library's headers: the operators of the Python package use it as well
// (python/ops/newton_schulz.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>

#include "osp/ops/panel_kernels.h"
#include "osp/optim/newton_schulz_settings.h"

namespace osp {

class PanelIteration {
 public:
  // Calls task(i) for i = 0 … count − 1, each once, in any order, side by side if it likes.
  using ForEachTask = void (*)(int64_t count, const std::function<void(int64_t)>& task);

  // True if this CPU has the products and none that are faster (AMX has).
  static bool is_best();

  // For matrices of `rows` x `cols`; n is the smaller of the two.
  PanelIteration(int64_t rows, int64_t cols, ForEachTask for_each_task);

  // bf16 bits of X, row-major as given to the constructor: written before run() or begin(), read
  // after run() or end().
  uint16_t* data();
  // The whole iteration on a normalised X; what settings say of norm_eps, renormalize and threads
  // is the caller's.
  void run(const NewtonSchulz& settings);
  // Its parts.
  void begin();
  // X ← a X + (b A + c A²) X with A = X Xᵀ; each result is rounded to bf16.
  void step(double a, double b, double c);
  // Two steps by products of n x n matrices, with one product with X at the end, which is less work
  // where m > n:
  //   P = b A + c A²;  A' = (a + P)² A;  P' = b' A' + c' A'²;  X ← (a' + P') (a + P) X
  // As exact as two of step() while singular values are small (tested); not later.
  void two_steps(const std::array<double, 3>& first, const std::array<double, 3>& second);
  // step() in three calls, for callers that need the norm of A² in between: A; then A² rounded to
  // bf16, whose sum of squares is returned; then X ← alpha X + beta (b A + c A²) X.
  void make_gram();
  double square_gram();
  void apply_squared(double alpha, double beta, double b, double c);
  void end();

 private:
  struct Release {
    void operator()(uint32_t* words) const;
  };
  struct Words {
    std::unique_ptr<uint32_t[], Release> memory;
    int64_t count = 0;
  };
  static Words empty(int64_t count);
  static uint32_t* words(const Words& of) { return of.memory.get(); }
  Words square() const;  // a matrix [n, n]
  // out = factor · l r + x + y, which must be symmetric; x and y are multiples of
  // symmetric matrices.
  void symmetric_product(const Words& l, const Words& r, double factor, panel_kernels::Term x,
                         panel_kernels::Term y, const Words& out) const;
  void apply(double alpha, double beta, const Words& polynomial);

  int64_t rows_, cols_;
  ForEachTask for_each_task_;
  int64_t n_panels_, m_panels_;
  int64_t n_stride_, m_stride_;  // words of a panel with n or m rows
  Words by_columns_, spare_;     // X in panels of its columns; the other of two buffers
  Words by_rows_;                // Xᵀ in panels of its columns, the rows of X
  Words gram_, polynomial_;
  Words product_, next_;  // of two_steps
};

}  // namespace osp
