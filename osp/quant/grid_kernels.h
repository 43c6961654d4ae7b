// The clipping search of one group of weights on raw pointers, compiled once per instruction set.
#pragma once

#include <cstdint>

namespace osp::kernels {

// Of `count` candidates (scale[c · stride], zero[c · stride]; no zeros: null) the first with the
// least
//   Σ |(clamp(round(x / scale) + zero, low, high) − zero) · scale − x|^2.4
// over n numbers: powers in fp32 to 3e-7 of their size, sums in fp64. Errors above the least one so
// far are not added up to the end. All numbers are finite, scales positive.
using GridSearch = int64_t (*)(const float* x, int64_t n, const float* scale, const float* zero,
                               int64_t stride, int64_t count, float low, float high);

GridSearch grid_search_portable();
GridSearch grid_search_avx2();
GridSearch grid_search_avx512();

}  // namespace osp::kernels
