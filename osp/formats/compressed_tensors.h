// The dense packing of the compressed-tensors layout "pack-quantized": signed codes of b bits,
// stored as code + 2^(b−1), follow each other in the bits of int32 words, least significant first.
// A code may cross into the next word. Every row begins with a new word; its last word is filled
// with zeros. And of the layouts "nvfp4-pack-quantized" and "mxfp4-pack-quantized": two four-bit
// codes of a row in a byte, the first in its low half.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace osp {

// Words of a row of `columns` codes: ceil(columns · bits / 32).
int64_t packed_words(int64_t columns, int64_t bits);

// codes [rows, columns] → words [rows, packed_words]. Bits 1 to 8, every code in its range.
std::vector<int32_t> pack_codes(std::span<const int8_t> codes, int64_t rows, int64_t columns,
                                int64_t bits);

// The other way; words.size() = rows · packed_words(columns, bits).
std::vector<int8_t> unpack_codes(std::span<const int32_t> words, int64_t rows, int64_t columns,
                                 int64_t bits);

// Four-bit codes 0 … 15 of an even number, two in a byte, and the reverse (bytes.size() · 2 codes).
std::vector<uint8_t> pack_nibbles(std::span<const int8_t> codes);
std::vector<int8_t> unpack_nibbles(std::span<const uint8_t> bytes);

}  // namespace osp
