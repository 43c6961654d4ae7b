// The clipping search of one group of weights on raw pointers, compiled once per instruction set.
//
// Tested by grid_search_test.cpp.
#pragma once

#include <cstdint>

namespace osp::kernels {

// Index of the candidate, of `count` (scale[c · stride], zero[c · stride]; no zeros: null), with
// the least error, the first among equals:
//
//   Σ |(clamp(round(x / scale) + zero, low, high) − zero) · scale − x|^2.4     over n numbers
//
// Powers in fp32 to 3e-7 of their size, sums in fp64. A sum is given up once it exceeds the least
// one so far. All numbers are finite, scales positive.
using GridSearch = int64_t (*)(const float* x, int64_t n, const float* scale, const float* zero,
                               int64_t stride, int64_t count, float low, float high);

GridSearch grid_search_portable();
GridSearch grid_search_avx2();
GridSearch grid_search_avx512();

}  // namespace osp::kernels
