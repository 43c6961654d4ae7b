// Integer grids of the reference and round-to-nearest onto them, in fp32.
//
//   symmetric, per row:    x ≈ scale · code,           code in [−2^(b−1), 2^(b−1) − 1]
//   asymmetric, per group: x ≈ scale · (code − zero),  code in [0, 2^b − 1]
//
// Rounding is half to even. A row is an output channel of a weight, a token of an activation or a
// head of a token. Not finite input gives not finite output. The reference computes in bf16, scale
// and zero included; here every step is one fp32 operation in the order that is written in
// docs/numerics.md ("Quantization grids"), so that an independent program reproduces the codes bit
// for bit.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

namespace osp {

// Codes as fp32 whole numbers, [rows, columns], with a scale per row [rows, 1].
struct SymmetricCodes {
  at::Tensor codes;
  at::Tensor scale;

  at::Tensor dequantized() const;
};

// Codes as fp32 whole numbers in groups, [rows, columns / group, group]; scale and zero are
// [rows, columns / group, 1].
struct AsymmetricCodes {
  at::Tensor codes;
  at::Tensor scale;
  at::Tensor zero;

  at::Tensor dequantized() const;
};

// How the range of an asymmetric group is found.
enum class GroupRange {
  contains_zero,  // minimum taken with 0, maximum with 0
  free,           // of the numbers alone
};

// Weight [out, in]: scale = absmax / (2^(b−1) − 1) per output channel, or, with the
// clipping search, the one of the 80 scales p · scale, p = 1 − i/100, i = 0 … 79, that has the
// least Σ |quantized − x|^2.4; among equals the largest p. With fp16_scales every scale is rounded
// to fp16 (at least its smallest number, 2^−24) before codes are chosen, so that files that store
// fp16 scales give the same weights back.
SymmetricCodes quantize_symmetric(const at::Tensor& weight, int64_t bits, bool clipping_search,
                                  bool fp16_scales = false);

// Scales rounded to the nearest fp16 number, at least 2^−24, still fp32.
at::Tensor round_to_fp16(const at::Tensor& scale);

// x [.., columns] in groups of `group` along the last dimension. A group of zeros counts as [−1,
// 1], a group of equal numbers is stretched to contain 0. `clip` is the part of the range [low,
// high] that the grid covers.
AsymmetricCodes quantize_asymmetric(const at::Tensor& x, int64_t bits, int64_t group,
                                    GroupRange range, double clip = 1.0);

// Quantized and back, in the shape and type of the input.
at::Tensor fake_quantize_symmetric(const at::Tensor& weight, int64_t bits, bool clipping_search);
at::Tensor fake_quantize_asymmetric(const at::Tensor& x, int64_t bits, int64_t group,
                                    GroupRange range, double clip = 1.0);

// Naive twins for one row or group: scalar loops, result in place of the numbers.
void fake_quantize_symmetric_reference(std::span<float> row, int64_t bits, bool clipping_search);
void fake_quantize_asymmetric_reference(std::span<float> group, int64_t bits, GroupRange range,
                                        double clip = 1.0);

}  // namespace osp
