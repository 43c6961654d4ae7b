// Codes of quantized layers as blocks of GGUF types that hold the same numbers.
//
//   Q4_0, Q5_0, Q8_0   symmetric codes of at most 4, 5 and 8 bits:     d = fp16(scale), q = code
//   Q4_1, Q5_1         codes of at most 4 and 5 bits with zero points: d = fp16(scale),
//                      m = fp16(−scale (zero + 2^(b−1))), q = code + 2^(b−1)
//   MXFP4              MXFP4 weights, which lose nothing
//
// with a scale for whole blocks of 32 columns. Weights change by the rounding of d and m to fp16,
// and not at all where these are fp16 numbers, as scales of profile best and of tables are.
//
// Tested by gguf_export_test.cpp and tests/python/test_gguf_types.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "osp/formats/gguf_blocks.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

// Why blocks of `type` cannot hold a layer's codes ("has groups of 16"); "" if they can.
std::string why_codes_do_not_fit(const QuantizedLinear& layer, GgufTensorType type);

// The smallest type that holds codes of this kind; none for those that no type holds.
std::optional<GgufTensorType> gguf_type_of_codes(NumberKind kind, int64_t bits, bool symmetric);

// Writes the rows `rows` of a layer whose codes fit, one after the other.
void pack_gguf_codes(const QuantizedLinear& layer, GgufTensorType type,
                     const std::vector<int64_t>& rows, std::span<std::byte> blocks);

// The largest relative change of a scale or minimum by fp16; none if fp16 has no positive finite
// number for a scale.
std::optional<double> gguf_scale_rounding(const QuantizedLinear& layer, GgufTensorType type);

}  // namespace osp
