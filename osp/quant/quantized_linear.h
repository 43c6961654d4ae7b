// The codes of one quantized linear layer: the single result that fake quantization, the runtime
// and every export read.
//
//   integers   weight[o, i] ≈ scale[o, g] · (code[o, i] − zero[o, g]),   g = i / group,
//              code in [−2^(b−1), 2^(b−1) − 1]; symmetric grids have zero = 0
//   mxfp4      weight[o, i] ≈ c · scale[o, g]                 c: the number of code[o, i]
//   nvfp4      weight[o, i] ≈ bf16(c · (scale[o, g] / global))     (osp/quant/float_grid.h)
//   fp8        weight[o, i] ≈ c · scale[o, 0]
//
// The order of arithmetic is fixed (one fp32 subtraction of whole numbers, one fp32 product; one
// fp32 quotient, one product, one rounding), so that other programs reproduce the dequantized
// weights bit for bit. compressed-tensors unpacks four-bit numbers to bf16, which holds the
// products of MXFP4 and rounds those of NVFP4.
//
// Tested by weight_quantizer_test.cpp and float_grid_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "osp/quant/bits.h"

namespace osp {

struct QuantizedLinear {
  at::Tensor codes;   // int8 [out, in], columns in the order of the original weight
  at::Tensor scale;   // fp32 [out, groups], positive
  at::Tensor zero;    // int8 [out, groups] in the range of the codes; undefined: symmetric
  int64_t bits = 4;   // 2 … 8
  int64_t group = 0;  // columns of a group; 0: one scale per output channel
  NumberKind kind = NumberKind::integer;
  at::Tensor global;  // fp32 [1], positive, of NVFP4; undefined otherwise

  int64_t rows() const { return codes.size(0); }
  int64_t columns() const { return codes.size(1); }
  int64_t groups() const { return scale.size(1); }
  bool symmetric() const { return !zero.defined(); }
  bool is_integer() const { return kind == NumberKind::integer; }
  // fp32 [out, in].
  at::Tensor dequantized() const;
};

// The quantized layers of a model by the name of their weight (ParameterSpec::name).
using QuantizedWeights = std::map<std::string, QuantizedLinear>;

// Floating-point weights as products use them, fp32 [out, in]: the numbers c on effective scales
// (FloatScales::effective).
at::Tensor dequantized_floats(const at::Tensor& values, const at::Tensor& effective,
                              NumberKind kind);

// Error(usage) naming `what` (a weight) unless groups of `group` columns divide `columns`; 0 is one
// group of all columns.
void check_group(int64_t group, int64_t columns, const std::string& what);

// Names the first rule of the struct that the tensors break (shapes, types, codes outside the
// range, scales that are not positive and finite): Error(damaged) beginning with `what`.
void check_quantized(const QuantizedLinear& quantized, const std::string& what);

}  // namespace osp
