// AdamW (Loshchilov and Hutter) on banks, through the tensor library's fused kernel.
//
//   m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) g²
//   w ← (1 − lr·decay) w − lr · (m / (1−β₁ᵗ)) / (sqrt(v / (1−β₂ᵗ)) + eps)
//
// t counts the steps that this optimizer has taken, in int64, and is part of its state: a skipped
// training step does not advance it.
#pragma once

#include "osp/base/fields.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("beta1", self.beta1, Range{0, 1 - 1e-9}, "Adam: decay of the mean gradient");
    visit("beta2", self.beta2, Range{0, 1 - 1e-9}, "Adam: decay of the mean squared gradient");
    visit("eps", self.eps, Range{1e-30, 1},
          "Adam: added to the root; never 0, which makes weights without gradient NaN");
  }
};

// One step on one tensor, op by op: the twin of the fused step. `t` counts from 1.
void adamw_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& mean,
                          at::Tensor& square, int64_t t, const StepValues& values,
                          const OptimConfig& config);

extern const OptimizerRow kAdamRow;

}  // namespace osp
