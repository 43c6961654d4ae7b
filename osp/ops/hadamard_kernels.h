// Butterflies of the Hadamard transform on raw pointers, compiled once per instruction set.
//
// Tested by hadamard_test.cpp.
#pragma once

#include <cstdint>

namespace osp::kernels {

// In each of `rows` rows of blocks · base numbers (blocks a power of two), multiplies by
// H_blocks ⊗ I_base in place, by sums and differences at distances base, 2 base, 4 base, …, and
// divides by `divisor`.
struct HadamardKernels {
  void (*f32)(float* x, int64_t rows, int64_t blocks, int64_t base, float divisor);
  void (*f64)(double* x, int64_t rows, int64_t blocks, int64_t base, double divisor);
};

HadamardKernels hadamard_kernels_portable();
HadamardKernels hadamard_kernels_avx2();
HadamardKernels hadamard_kernels_avx512();

}  // namespace osp::kernels
