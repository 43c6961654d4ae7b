// Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) on banks: Adam's second moment of a matrix
// kept as its row and column means. For each matrix g [rows, cols], t counting from 1:
//
//   β = 1 − t^(−0.8)                                     0.8: optim.adafactor_decay
//   r ← β r + (1−β) mean over columns of (g² + 1e-30);   c likewise over rows
//   u = g / sqrt(r cᵀ / mean(r))
//   u ← u / max(1, RMS(u) / d)                           d 1: optim.adafactor_clip
//   m ← β₁ m + (1−β₁) u, u = m                           only if β₁ = optim.adafactor_momentum > 0
//   w ← (1 − lr · decay) w − lr · u                      u times max(1e-3, RMS(w)) if
//                                                        optim.adafactor_relative_step
//
// A vector or scalar is one row: r cᵀ / mean(r) is then c itself, a plain second moment. The
// formula is that of transformers.optimization.Adafactor with relative_step = False and
// scale_parameter = optim.adafactor_relative_step, except that m averages u itself and not lr · u:
// this is equal while the rate is constant, and a falling rate takes effect at once. The rate
// follows the recipe's schedule; the paper's rate of 1/sqrt(t) is not supported.
#pragma once

#include "osp/base/fields.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct AdafactorOptions {
  double decay = 0.8;
  double clip = 1.0;
  double momentum = 0.0;
  bool relative_step = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("adafactor_decay", self.decay, Range{0, 1},
          "Adafactor: second moments decay by 1 - t^-adafactor_decay at step t");
    visit("adafactor_clip", self.clip, Range{1e-9, 1e9},
          "Adafactor: largest root mean square of a matrix's update before the rate");
    visit("adafactor_momentum", self.momentum, Range{0, 1 - 1e-9},
          "Adafactor: decay of the mean update; 0: none is kept");
    visit("adafactor_relative_step", self.relative_step,
          "Adafactor: the rate of a matrix is times max(1e-3, root mean square of its weights)");
  }
};

// State of Adafactor for one matrix.
struct AdafactorMoments {
  at::Tensor rows;     // r [rows]
  at::Tensor columns;  // c [cols]
  at::Tensor mean;     // m [rows, cols]; unused without momentum
};

// One step on one matrix [rows, cols] with the estimate r cᵀ / mean(r) written out, in any
// floating-point type: the twin of the step over banks. `t` counts from 1.
void adafactor_step_reference(at::Tensor& weight, const at::Tensor& gradient,
                              AdafactorMoments& moments, int64_t t, const StepValues& values,
                              const OptimConfig& config);

extern const OptimizerRow kAdafactorRow;

}  // namespace osp
