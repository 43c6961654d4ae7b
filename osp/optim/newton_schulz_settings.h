// What a Newton–Schulz iteration computes: the numbers that newton_schulz.h and panel_iteration.h
// follow. Without tensors, for code that has none.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace osp {

struct NewtonSchulz {
  std::vector<std::array<double, 3>> steps;  // (a, b, c) of each
  double norm_scale = 1;  // X = update / (norm_scale · ‖update‖_F + norm_eps)
  double norm_eps = 1e-8;
  // Divide by the Schatten 8-norm as well, ‖(X Xᵀ)²‖_F^(1/4) = (Σ σ⁸)^(1/8): an upper bound of the
  // largest singular value that is much tighter than ‖X‖_F. Recipes call it s8.
  bool by_schatten_norm = false;
  bool pair_first = true;    // the first two steps of a long matrix may be joined, see
                             // PanelIteration::two_steps; needs small singular values
  bool renormalize = false;  // scale the result to ‖·‖_F = sqrt(min(rows, cols)), that of U Vᵀ
  bool threads_share_matrices = true;  // where there are fewer of these than threads
};

// The Schatten 8-norm of X, from ‖(X Xᵀ)²‖_F. As a divisor it may not vanish: a zero update stays
// zero.
inline double schatten_norm(double norm_of_squared_gram) {
  return std::max(std::pow(norm_of_squared_gram, 0.25), 1e-6);
}

}  // namespace osp
