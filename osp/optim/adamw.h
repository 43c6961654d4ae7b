// AdamW (Loshchilov and Hutter) on banks, through the tensor library's fused kernel.
//
//   m ← β₁ m + (1−β₁) g;   v ← β₂ v + (1−β₂) g²
//   w ← (1 − lr·decay) w − lr · (m / (1−β₁ᵗ)) / (sqrt(v / (1−β₂ᵗ)) + eps)
//
// t counts the steps that this optimizer has taken, in int64, and is part of its state: a skipped
// training step does not advance it.
#pragma once

#include <memory>

#include "osp/optim/config.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"

namespace osp {

// One step on one tensor, op by op: the twin of the fused step. `t` counts from 1.
void adamw_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& mean,
                          at::Tensor& square, int64_t t, const StepValues& values,
                          const OptimConfig& config);

// `banks` must outlive the optimizer.
std::unique_ptr<Optimizer> make_adamw(std::vector<Bank*> banks, const OptimizerGroup& group,
                                      const OptimConfig& config);

}  // namespace osp
