// Gradient descent on orthogonal matrices by Cayley transforms.
//
//   V = −Gᵀ;  Ŵ = V X − ½ Xᵀ (X V X);  W = Ŵ − Ŵᵀ                skew: a direction of rotation
//   α = min(1 / (‖W‖₁ + 1e-8), rate)                            ‖W‖₁: largest column sum of |W|
//   Y = Xᵀ + α V, five times Y ← Xᵀ + α/2 · W (Xᵀ + Y);  X ← Yᵀ
//
// The fixed point is (I − α/2 W)⁻¹ (I + α/2 W) Xᵀ, which is orthogonal if X is; five iterations
// only come near, so the result is orthonormalised whenever it is off by more than 1e-6 (the
// reference does so at random, about once in 101 steps). Source: Li, Fuxin and Todorovic,
// "Efficient Riemannian optimization on the Stiefel manifold via the Cayley transform", 2020, as
// used by the SpinQuant repository (train_utils/optimizer.py), which has momentum 0.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace osp {

// Allowed distance of X Xᵀ from the identity.
inline constexpr double kOrthogonalityLimit = 1e-6;

// The outcome of one step.
struct CayleyStep {
  double length = 0.0;     // α
  double error = 0.0;      // max |X Xᵀ − I| after the iterations
  bool corrected = false;  // orthonormalised; `error` is that before it
};

// One step on X [n, n] (fp64, orthogonal), in place, against the gradient G of the objective with
// respect to X.
CayleyStep cayley_step(at::Tensor& x, const at::Tensor& gradient, double rate);

// The exact transform by solving the linear system: what the iterations approach.
at::Tensor cayley_step_reference(const at::Tensor& x, const at::Tensor& gradient, double rate);

// The orthogonal matrix nearest to X (fp64, nearly orthogonal): X ← 1.5 X − 0.5 X Xᵀ X until it is.
at::Tensor orthonormalized(const at::Tensor& x);

// rate · ½ (1 + cos(π step / steps))
double cosine_rate(double rate, int64_t step, int64_t steps);

}  // namespace osp
