#include "osp/formats/gguf_integers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "osp/base/error.h"
#include "osp/formats/half.h"

namespace osp {
namespace {

constexpr size_t kPerScale = 32;

float half_at(const std::byte* data) {
  uint16_t bits;
  std::memcpy(&bits, data, sizeof(bits));
  return half_to_float(bits);
}

// Code i of 16 bytes: the low half of byte i, or the high half of byte i − 16.
int nibble(const std::byte* data, size_t i) {
  const auto byte = std::to_integer<int>(data[i % 16]);
  return i < 16 ? byte & 15 : byte >> 4;
}

// The whole number of scales that a block's minimum lies below 0: from 0 to 15, else −1.
int zero_point(float scale, float minimum) {
  if (minimum == 0.0F) return 0;
  const float zero = std::round(-minimum / scale);
  return zero >= 0 && zero <= 15 && scale * zero == -minimum ? static_cast<int>(zero) : -1;
}

// One block: its scale, codes and zero point from −2^(bits − 1) on. False if it has none.
bool read_block(GgufTensorType type, const std::byte* block, int8_t* codes, float& scale,
                int& zero) {
  const bool bytes = type == GgufTensorType::q8_0;
  const std::byte* values = block + (type == GgufTensorType::q4_1 ? 4 : 2);
  scale = half_at(block);
  if (!std::isfinite(scale)) return false;
  for (size_t i = 0; i < kPerScale; ++i) {
    codes[i] = static_cast<int8_t>(bytes ? std::to_integer<int>(values[i]) : nibble(values, i) - 8);
  }
  zero = 0;
  if (type == GgufTensorType::q4_1) {
    const float minimum = half_at(block + 2);
    zero = scale == 0.0F && minimum == 0.0F ? 0 : zero_point(scale, minimum);
    if (zero < 0) return false;
    zero -= 8;
  }
  if (scale == 0.0F) {
    std::fill_n(codes, kPerScale, int8_t{0});
    scale = 1.0F;
    zero = 0;
  } else if (scale < 0.0F) {
    // Codes and zero point are turned round within their range: c becomes −1 − c in 4 bits, whose
    // −8 has no opposite, and −c in 8, where −128 is not used.
    const int turn = bytes ? 0 : -1;
    if (bytes &&
        *std::min_element(codes, codes + kPerScale) == std::numeric_limits<int8_t>::min()) {
      return false;
    }
    for (size_t i = 0; i < kPerScale; ++i) codes[i] = static_cast<int8_t>(turn - codes[i]);
    zero = turn - zero;
    scale = -scale;
  }
  return true;
}

}  // namespace

int64_t gguf_integer_bits(GgufTensorType type) {
  if (type == GgufTensorType::q8_0) return 8;
  return type == GgufTensorType::q4_0 || type == GgufTensorType::q4_1 ? 4 : 0;
}

bool gguf_integers(GgufTensorType type, std::span<const std::byte> blocks, std::span<int8_t> codes,
                   std::span<float> scales, std::span<int8_t> zeros) {
  OSP_CHECK(gguf_integer_bits(type) > 0, "blocks without integers");
  const size_t block_bytes = gguf_type_of_blocks(type, codes.size(), blocks.size()).block_bytes;
  OSP_CHECK(scales.size() == codes.size() / kPerScale && zeros.size() == scales.size(),
            "a scale and a zero point for each block");
  for (size_t b = 0; b < scales.size(); ++b) {
    int zero = 0;
    if (!read_block(type, blocks.data() + b * block_bytes, codes.data() + b * kPerScale, scales[b],
                    zero)) {
      return false;
    }
    zeros[b] = static_cast<int8_t>(zero);
  }
  return true;
}

}  // namespace osp
