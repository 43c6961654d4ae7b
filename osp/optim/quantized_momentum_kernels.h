// Muon's momentum in 8 bits on raw pointers, compiled once per instruction set, with the same bits
// at every level: nothing is fused and sums have a fixed order. bf16 values are passed as their
// bits; the formula is in osp/optim/quantized_momentum.h.
//
// Tested by quantized_momentum_test.cpp.
#pragma once

#include <cstdint>

#include "osp/ops/bf16_bits.h"

namespace osp::kernels {

// Consecutive numbers of one matrix that share a scale; a matrix's last block may be shorter.
inline constexpr int64_t kMomentumBlock = 256;

struct QuantizedMomentumKernels {
  // Σ u² of the update that step() makes; changes nothing. Sums of a block are fp32 and
  // added in double.
  double (*sum_of_squares)(const float* g, const int8_t* codes, const float* scales, int64_t count,
                           float beta, bool nesterov);
  // b = g + beta · scale · code; x = bf16(u / divisor) with u = g + beta · b (Nesterov) or b; codes
  // and scales become those of b. All in one pass.
  void (*step)(const float* g, int8_t* codes, float* scales, uint16_t* x, int64_t count, float beta,
               bool nesterov, float divisor);
};

const QuantizedMomentumKernels& quantized_momentum_kernels_portable();
const QuantizedMomentumKernels& quantized_momentum_kernels_avx2();
const QuantizedMomentumKernels& quantized_momentum_kernels_avx512();

}  // namespace osp::kernels
