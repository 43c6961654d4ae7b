#include "osp/optim/decompositions.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_eigh.h>
#include <c10/util/Exception.h>

namespace osp {

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

}  // namespace osp
