// The clipping search over groups of weights: which of many scales gives the least Σ |error|^2.4.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace osp {

inline constexpr double kErrorPower = 2.4;
// Ratios of the search: 1 − i/100 for i = 0 … 79.
inline constexpr int64_t kSearchSteps = 80;
inline double search_ratio(int64_t i) { return 1.0 - static_cast<double>(i) / 100.0; }

// For each row of x [rows, n] the index of its best candidate (the first among equals), int64
// [rows]. scale and zero [candidates, rows], fp32; zero may be undefined. Codes are clamped to
// [low, high].
at::Tensor best_candidates(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero,
                           double low, double high);

// Naive twin, powers and sums in fp64.
at::Tensor best_candidates_reference(const at::Tensor& x, const at::Tensor& scale,
                                     const at::Tensor& zero, double low, double high);

}  // namespace osp
