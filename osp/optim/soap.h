// SOAP (Vyas et al. 2024, arXiv 2409.11321) on banks: Adam in the eigenbasis of Shampoo's factors.
// For each matrix g [rows, cols]:
//
//   g' = Q_Lᵀ g Q_R
//   m' ← β₁ m' + (1−β₁) g';   v' ← β₂ v' + (1−β₂) g'²
//   w ← (1 − lr·decay) w − lr · Q_L ((m' / (1−β₁ᵗ)) / (sqrt(v' / (1−β₂ᵗ)) + eps)) Q_Rᵀ
//   L ← β L + (1−β) g gᵀ;   R ← β R + (1−β) gᵀ g         β: optim.precondition_beta
//
// t counts updates. As in the authors' code the first gradient is spent on the bases, the
// eigenvectors of its own L and R by falling eigenvalue, and moves no weight. After every
// optim.precondition_every updates one step of orthogonal iteration turns each basis: its columns
// are sorted by qᵀ L q, falling (v' with them), then Q_L ← orthonormal factor of L Q_L; m' is
// turned from the old bases into the new ones. A side of more than optim.soap_largest_basis keeps
// its own coordinates. A basis that is not finite is not taken: the old one stays, and the state
// "failures" counts it.
#pragma once

#include "osp/base/fields.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct SoapOptions {
  int64_t largest_basis = 10000;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("soap_largest_basis", self.largest_basis, Range{1, 1e6},
          "SOAP: a side of a matrix that is longer keeps its own coordinates");
  }
};

// State of the twin for one matrix. Its mean is that of g itself, turned into the bases
// at every step.
struct SoapMatrix {
  at::Tensor mean, square;               // m [rows, cols], v' [rows, cols]
  at::Tensor left_factor, left_basis;    // L, Q_L [rows, rows]
  at::Tensor right_factor, right_basis;  // R, Q_R [cols, cols]
  int64_t num_gradients = 0;
};

// One step on one matrix, op by op, in any floating-point type and with both bases: the twin of the
// step over banks.
void soap_step_reference(at::Tensor& weight, const at::Tensor& gradient, SoapMatrix& matrix,
                         const StepValues& values, const OptimConfig& config);

extern const OptimizerRow kSoapRow;

}  // namespace osp
