// IEEE half precision (binary16) to and from float by integer arithmetic: the same bits on every
// machine, subnormals included.
#pragma once

#include <bit>
#include <cstdint>

namespace osp {

// Exact; the payload of a NaN stays in the upper bits.
inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1Fu;
  uint32_t fraction = half & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  if (fraction == 0) return std::bit_cast<float>(sign);
  const int shift = std::countl_zero(fraction) - 21;  // moves the leading one to bit 10
  fraction = fraction << shift & 0x3FFu;
  return std::bit_cast<float>(sign | static_cast<uint32_t>(113 - shift) << 23 | fraction << 13);
}

// Rounds to nearest, ties to even; what is 65520 or larger becomes infinity.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return static_cast<uint16_t>(sign | 0x7E00u);
  if (magnitude >= 0x477FF000u) return static_cast<uint16_t>(sign | 0x7C00u);
  // `kept` bits of the result stand above `dropped` bits; adding just under half a unit, and the
  // last kept bit, rounds ties to even and carries into the exponent where it must.
  uint32_t significand = magnitude - (112u << 23);
  int dropped = 13;
  if (magnitude < 0x38800000u) {  // the half is subnormal, a multiple of 2^-24
    const int exponent = static_cast<int>(magnitude >> 23);
    if (exponent < 102) return sign;
    significand = (magnitude & 0x7FFFFFu) | 0x800000u;
    dropped = 126 - exponent;
  }
  const uint32_t odd = significand >> dropped & 1u;
  significand += (1u << (dropped - 1)) - 1 + odd;
  return static_cast<uint16_t>(sign | significand >> dropped);
}

}  // namespace osp
