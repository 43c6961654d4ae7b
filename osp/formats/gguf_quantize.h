// Values as blocks of GGUF tensor types: the inverse of gguf_dequantize, for the types
// that osp writes.
//
// Q4_0 … Q8_0 are rounded as the reference implementation rounds, byte for byte: one scale by the
// largest magnitude or by the range. Q4_K and Q6_K have no single reference; here each part of 16
// or 32 values is fitted by least squares from several starting scales, the scales of the parts are
// rounded, and each is then moved by one if that lowers the squared error.
//
// Tested by gguf_quantize_test.cpp and, against the package gguf, by tests/python/test_gguf.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "osp/formats/gguf_blocks.h"

namespace osp {

// The type called `name` in lower case ("q4_k"; "fp32" for F32) among those that gguf_quantize
// takes, and mxfp4, which is written from codes alone; none for others.
std::optional<GgufTensorType> gguf_written_type(std::string_view name);

// Blocks of `values`, row after row, whose number is a multiple of the block's:
//   F32;  F16 and BF16, rounded to nearest even;
//   Q8_0: d = max|x| / 127, q = x / d half away from zero;
//   Q4_0, Q5_0: d = the value of largest magnitude / −8 or −16, q = ⌊x / d + ½⌋ within range;
//   Q4_1, Q5_1: m = min x, d = (max x − m) / 15 or 31, q = ⌊(x − m) / d + ½⌋;
//   Q4_K, Q6_K: see above.
// Divisions are products with the fp32 inverse of the unrounded d. Values are finite and at most
// 65519 in magnitude but for F32 and BF16.
void gguf_quantize(GgufTensorType type, std::span<const float> values, std::span<std::byte> blocks);

// One block of 32 codes, value i in the low half of byte i, value i + 16 in its high half.
void gguf_pack_nibbles(const uint8_t* codes, uint8_t* out);

}  // namespace osp
