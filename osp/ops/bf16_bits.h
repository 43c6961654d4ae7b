// Numbers in bf16 as their bits, for kernels on raw memory. Everything is static: a file that is
// compiled for one instruction set must not lend its copy to others.
//
// Tested by osp/ops/kernels_test.cpp.
#pragma once

#include <cstdint>

namespace osp::kernels {

static inline float bf16_to_float(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

// Round to nearest even; NaN stays NaN.
static inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

}  // namespace osp::kernels
