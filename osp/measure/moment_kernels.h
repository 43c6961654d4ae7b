// Sums over one row of numbers for the kurtosis, on raw pointers: compiled once per instruction
// set, with the same bits at every level, since sums have a fixed order and nothing is fused.
//
// Tested by moments_test.cpp.
#pragma once

#include <cstdint>

namespace osp::kernels {

struct RowSums {
  double mean, m2, m3, m4;  // as in Moments
  float largest;            // max |x| over the numbers that are not NaN, 0 of none
};

struct MomentKernels {
  // Of `count` ≥ 1 numbers, in two passes: the mean with the largest, then the powers of
  // differences from it. All sums are fp64, in 16 partial sums each.
  void (*row_sums)(const float* x, int64_t count, RowSums& sums);
};

const MomentKernels& moment_kernels_portable();
const MomentKernels& moment_kernels_avx2();
const MomentKernels& moment_kernels_avx512();

}  // namespace osp::kernels
