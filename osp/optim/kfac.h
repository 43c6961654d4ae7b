// K-FAC (Martens and Grosse 2015, arXiv 1503.05671) for linear layers y = W x, on banks: the Fisher
// information of W [out, in] taken as G ⊗ A. With x_n, dy_n of the N tokens of a step, dy the
// gradient of the mean loss:
//
//   A ← κ A + (1−κ) Σ x xᵀ / N;   G ← κ G + (1−κ) N Σ dy dyᵀ     κ = min(1 − 1/n, β) the n-th time,
//                                                                β: optim.precondition_beta
//   π = sqrt((tr A / in) / (tr G / out));   δ = sqrt(damping)     damping: optim.kfac_damping
//   A⁻ = (A + π δ I)⁻¹;   G⁻ = (G + δ/π I)⁻¹
//   m ← β₁ m + (1−β₁) g;   m̂ = m / (1−β₁ᵗ);   p = G⁻ m̂ A⁻
//   w ← (1 − lr·decay) w − lr · p · min(1, sqrt(clip / Σ p·m̂))   sum over the group;
//                                                                clip: optim.kfac_clip
//
// The factors are gathered by a tap at the steps 1, 1 + kfac_gather_every, …, the inverses taken at
// the steps 1, 1 + precondition_every, …. An inverse that fails or is not finite is not taken: the
// old one (at first the identity) stays, and the state "failures" counts it. dy is the gradient of
// the loss on the data: the empirical Fisher. Σ p·m̂ is twice the change of the model's
// distribution that a step p predicts; clipping it bounds that of every step by lr² clip / 2.
#pragma once

#include <vector>

#include "osp/base/fields.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct KfacOptions {
  double damping = 1e-3;
  double clip = 1.0;
  int64_t gather_every = 1;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("kfac_damping", self.damping, Range{1e-30, 1e6},
          "K-FAC: added to the Fisher information, its root split between the two factors; never "
          "0, which leaves factors of fewer directions than channels no inverse");
    visit(
        "kfac_clip", self.clip, Range{0, 1e9},
        "K-FAC: largest product of direction and gradient, to which longer ones are cut; 0: none");
    visit("kfac_gather_every", self.gather_every, Range{1, 1e9},
          "K-FAC: steps between two that are averaged into the factors");
  }
};

// State of the twin for one matrix.
struct KfacMatrix {
  at::Tensor mean;                           // m [out, in]
  at::Tensor input_factor, input_inverse;    // A, A⁻ [in, in]
  at::Tensor output_factor, output_inverse;  // G, G⁻ [out, out]
};

// One step on the matrices of a group in any floating-point type, with factors gathered every step:
// the twin of the step over banks. Inputs [N, in] and output gradients [N, out] are those of the
// layers; `t` counts from 1.
void kfac_step_reference(std::vector<at::Tensor>& weights, const std::vector<at::Tensor>& gradients,
                         const std::vector<at::Tensor>& inputs,
                         const std::vector<at::Tensor>& output_gradients,
                         std::vector<KfacMatrix>& matrices, int64_t t, const StepValues& values,
                         const OptimConfig& config);

// The members of the banks are the numbers by which the tap of watch_step() knows the layers.
extern const OptimizerRow kKfacRow;

}  // namespace osp
