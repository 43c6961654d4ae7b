// Floating-point numbers of few bits with shared scales: MXFP4, NVFP4 and FP8.
//
//   mxfp4   x ≈ c · s          c in E2M1, s = 2^(e − 127) of a block of 32 (E8M0: e in [0, 254])
//   nvfp4   x ≈ c · (s / g)    c in E2M1, s in E4M3 of a block of 16, g in fp32
//   fp8     x ≈ c · s          c in E4M3, s in fp32 of a row
//
// E2M1 has 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives; E4M3 is OCP's (no infinity, up to 448).
// With m the largest magnitude of a block, a row or all numbers that share g:
//
//   mxfp4   e = exponent of m, one more if m ≥ 1.75 · 2^exponent, less 2, at least 0
//   nvfp4   g = (1 / m) · 2688 (1 where that is not finite), s = E4M3(g · (m / 6)),
//           0.125 in place of 0
//   fp8     s = m / 448, 2^−23 in place of 0
//
// Rounding is to the nearest number, halves to the one whose last bit is 0, after x / s in fp32.
// That is what the quantizer of compressed-tensors does with fp32 numbers, bit for bit
// (tests/python/test_float_formats.py). Formats: OCP Microscaling Formats 1.0; NVIDIA, "Introducing
// NVFP4" (2025); OCP 8-bit Floating Point 1.0.
//
// Numbers that are not finite, and in MXFP4 blocks with one of 1.75 · 2^127 or more, become
// NaN or infinite.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "osp/quant/bits.h"

namespace osp {

// Numbers that share a scale: 32 and 16; 0 for fp8, a whole row.
int64_t block_size(NumberKind kind);

// The constant that numbers with the largest magnitude absmax share: g of NVFP4, s of FP8.
float float_constant(float absmax, NumberKind kind);

// Scales of a matrix [rows, columns]: fp32 [rows, blocks] as they are stored, and g, fp32 [1], of
// NVFP4, undefined otherwise. g is that of the largest magnitude in x and of `shared_largest`,
// which is that of other matrices under the same g.
struct FloatScales {
  at::Tensor scale, global;

  // The divisors of numbers: s / g, or s.
  at::Tensor effective() const;
};
FloatScales float_scales(const at::Tensor& x, NumberKind kind, float shared_largest = 0.0f);

// The numbers c for x [rows, columns] on effective scales [rows, blocks], as fp32.
at::Tensor float_values(const at::Tensor& x, NumberKind kind, const at::Tensor& effective);

// Codes as stored (int8 of E2M1's four bits, sign in bit 3, or of E4M3's byte) of numbers c,
// and the reverse.
at::Tensor codes_of_values(const at::Tensor& values, NumberKind kind);
at::Tensor values_of_codes(const at::Tensor& codes, NumberKind kind);

// Scales of MXFP4 (fp32 powers of two) as E8M0 bytes, and the reverse; 255, which E8M0 calls NaN,
// is infinite here.
at::Tensor e8m0_of_scales(const at::Tensor& scale);
at::Tensor scales_of_e8m0(const at::Tensor& bytes);

// Quantized and back, in x's shape and type, by rows of the last dimension, whose size is a
// multiple of the block: g of NVFP4 and s of FP8 are those of a row. x is a token or a head of one.
at::Tensor fake_quantize_float(const at::Tensor& x, NumberKind kind);
// With a constant for all rows: g of NVFP4, s of FP8.
at::Tensor fake_quantize_float(const at::Tensor& x, NumberKind kind, float constant);

// A weight x on its effective scale: the number c, and what dequantized_floats makes of it. For
// loops over columns.
struct RoundedFloat {
  float value, weight;
};
RoundedFloat round_float(float x, float effective, NumberKind kind);

// Naive twins for one number, and for one row with its own g or s.
float round_to_e2m1_reference(float x);
float round_to_e4m3_reference(float x);
void fake_quantize_float_reference(std::span<float> row, NumberKind kind);

}  // namespace osp
