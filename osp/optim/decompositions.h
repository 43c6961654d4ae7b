// Decompositions of small symmetric matrices for the preconditioners. They report failure instead
// of throwing, so that training can continue with the previous result.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace osp {

bool all_finite(const at::Tensor& x);

// x = vectors · diag(values) · vectorsᵀ, values rising.
struct EigenPairs {
  at::Tensor values;   // [n]
  at::Tensor vectors;  // [n, n], one in each column
};

// Eigenpairs of a symmetric x [n, n], computed in its own type, or in fp64 and cast back if that
// fails. None if x or both results are not finite or do not converge.
std::optional<EigenPairs> eigen_pairs(const at::Tensor& x);

// x^(−1/root) of a symmetric, positive semidefinite x [n, n], its eigenvalues λ taken as
// max(λ, 1e-6 λ_max) + eps: those below a millionth of the largest are rounding errors of x. None
// if there are no eigenpairs or the root is not finite.
std::optional<at::Tensor> inverse_root(const at::Tensor& x, double root, double eps);

// (x + damping · I)⁻¹ of a symmetric, positive semidefinite fp32 or fp64 x [n, n], by Cholesky in
// its own type, or in fp64 if that fails. None if x or both results are not finite, or x + damping
// · I is not positive definite.
std::optional<at::Tensor> damped_inverse(const at::Tensor& x, double damping);

}  // namespace osp
