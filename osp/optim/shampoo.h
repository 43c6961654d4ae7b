// Shampoo (Gupta, Koren and Singer 2018, arXiv 1802.09568) on banks, in blocks and grafted to Adam
// as in Shi et al. 2023 (arXiv 2309.06497). Each matrix is cut into blocks of at most
// optim.shampoo_block in each direction (block_grid.h); for each block g, t counting from 1:
//
//   L ← β L + (1−β) g gᵀ;   R ← β R + (1−β) gᵀ g          β: optim.precondition_beta
//   m ← β₁ m + (1−β₁) g;    v ← β₂ v + (1−β₂) g²
//   a = (m / (1−β₁ᵗ)) / (sqrt(v / (1−β₂ᵗ)) + eps)         Adam's step
//   p = (L / (1−βᵗ))^(−1/4) · m · (R / (1−βᵗ))^(−1/4)
//   w ← (1 − lr·decay) w − lr · p ‖a‖ / ‖p‖               ‖·‖ Frobenius
//
// The roots are computed anew at every step that optim.precondition_every divides
// (decompositions.h; eps of the eigenvalues: optim.shampoo_eps) and used in between. Before the
// first of these steps, while L and R have seen few gradients, the step is a itself. A root that
// fails or is not finite is discarded: the old one (at first the identity) stays, and the state
// "failures" counts it.
#pragma once

#include <vector>

#include "osp/base/fields.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct ShampooOptions {
  int64_t block = 1024;
  double eps = 1e-12;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("shampoo_block", self.block, Range{1, 1e6},
          "Shampoo: larger matrices are cut into blocks of at most so many rows and columns");
    visit("shampoo_eps", self.eps, Range{1e-30, 1},
          "Shampoo: added to the eigenvalues of the factors; never 0, which leaves factors without "
          "gradient no root");
  }
};

// State of the twin for one matrix; factors and roots by block, row by row.
struct ShampooMatrix {
  at::Tensor mean, square;  // m, v [rows, cols]
  std::vector<at::Tensor> left_factors, left_roots, right_factors, right_roots;
  int64_t t = 0;
};

// Zeros in the weight's shape and type; roots are identities.
ShampooMatrix make_shampoo_matrix(const at::Tensor& weight, const OptimConfig& config);

// One step on one matrix, block by block without filling, in any floating-point type: the twin of
// the step over banks.
void shampoo_step_reference(at::Tensor& weight, const at::Tensor& gradient, ShampooMatrix& matrix,
                            const StepValues& values, const OptimConfig& config);

extern const OptimizerRow kShampooRow;

}  // namespace osp
