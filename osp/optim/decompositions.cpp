#include "osp/optim/decompositions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/matmul.h>
#include <c10/util/Exception.h>

namespace osp {
namespace {

constexpr double kResolvedEigenvalue = 1e-6;

}  // namespace

bool all_finite(const at::Tensor& x) { return at::isfinite(x).all().item<bool>(); }

std::optional<EigenPairs> eigen_pairs(const at::Tensor& x) {
  if (!all_finite(x)) return std::nullopt;  // LAPACK may not return
  for (const at::ScalarType type : {x.scalar_type(), at::kDouble}) {
    try {
      const auto [values, vectors] = at::linalg_eigh(x.to(type), "L");
      if (all_finite(values) && all_finite(vectors)) {
        return EigenPairs{values.to(x.scalar_type()), vectors.to(x.scalar_type())};
      }
    } catch (const c10::LinAlgError&) {
      // Not converged: the next type, then none, which the caller counts.
    }
  }
  return std::nullopt;
}

std::optional<at::Tensor> inverse_root(const at::Tensor& x, double root, double eps) {
  const auto pairs = eigen_pairs(x);
  if (!pairs) return std::nullopt;
  const double least = kResolvedEigenvalue * pairs->values.max().item<double>();
  const at::Tensor powers = pairs->values.clamp_min(least).add_(eps).pow_(-1 / root);
  const at::Tensor result = at::matmul(pairs->vectors * powers, pairs->vectors.t());
  return all_finite(result) ? std::optional(result) : std::nullopt;
}

std::optional<at::Tensor> damped_inverse(const at::Tensor& x, double damping) {
  if (!all_finite(x)) return std::nullopt;
  for (const at::ScalarType type : {x.scalar_type(), at::kDouble}) {
    at::Tensor damped = x.to(type, /*non_blocking=*/false, /*copy=*/true);
    damped.diagonal().add_(damping);
    const auto [factor, info] = at::linalg_cholesky_ex(damped);
    if (info.item<int>() != 0) continue;
    const at::Tensor inverse = at::cholesky_inverse(factor).to(x.scalar_type());
    if (all_finite(inverse)) return inverse;
  }
  return std::nullopt;
}

}  // namespace osp
