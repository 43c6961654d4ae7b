// The integers of GGUF blocks, for formats that hold codes with a scale and a zero point.
//
// Tested by osp/formats/gguf_integers_test.cpp and tests/python/test_export_codes.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "osp/formats/gguf_blocks.h"

namespace osp {

// The bits of a type's integers, 0 for a type whose blocks have no scale and zero point for 32
// values each: Q4_0 and Q4_1 have 4, Q8_0 has 8.
int64_t gguf_integer_bits(GgufTensorType type);

// Whole blocks as integers: value = scale · (code − zero), in fp32 the very values of
// gguf_dequantize. `codes` has 32 numbers a block from −2^(bits − 1) on, `scales`, all above 0, and
// `zeros` one a block. A negative scale (llama.cpp writes them in Q4_0) changes the signs of codes
// and zero point; a block of zeros has the scale 1. False where that cannot be: an offset of Q4_1
// that is no whole multiple of the scale from 0 to 15, −128 under a negative scale of Q8_0, a scale
// that is not finite.
bool gguf_integers(GgufTensorType type, std::span<const std::byte> blocks, std::span<int8_t> codes,
                   std::span<float> scales, std::span<int8_t> zeros);

}  // namespace osp
