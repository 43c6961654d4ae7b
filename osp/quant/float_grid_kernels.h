// Blocks of floating-point numbers of few bits on raw pointers, compiled once per instruction set.
// The definitions are those of osp/quant/float_grid.h.
//
// Tested by float_grid_test.cpp.
#pragma once

#include <cstdint>

namespace osp::kernels {

struct FloatGridKernels {
  // The largest magnitude of n numbers, NaN if one of them is.
  float (*absmax)(const float* x, int64_t n);
  // The scale of each of `blocks` blocks of 32 numbers, a power of two, infinite where
  // E8M0 has none.
  void (*mx_scales)(const float* x, int64_t blocks, float* scale);
  // The E4M3 scale of each block of 16 numbers, before it is divided by `global`.
  void (*nv_scales)(const float* x, int64_t blocks, float global, float* scale);
  // The numbers of each block divided by its scale and rounded to E2M1, or to E4M3; multiplied by
  // the scale again if `scaled`. x and out may be the same.
  void (*round_e2m1)(const float* x, int64_t blocks, int64_t block, const float* scale, bool scaled,
                     float* out);
  void (*round_e4m3)(const float* x, int64_t blocks, int64_t block, const float* scale, bool scaled,
                     float* out);
};

FloatGridKernels float_grid_portable();
FloatGridKernels float_grid_avx2();
FloatGridKernels float_grid_avx512();

}  // namespace osp::kernels
