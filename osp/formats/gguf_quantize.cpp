#include "osp/formats/gguf_quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "osp/base/error.h"
#include "osp/formats/gguf_quantize_k.h"
#include "osp/formats/half.h"

namespace osp {
namespace {

constexpr int kBlockValues = 32;

constexpr std::array<std::pair<std::string_view, GgufTensorType>, 11> kWritten = {{
    {"fp32", GgufTensorType::f32},
    {"f16", GgufTensorType::f16},
    {"bf16", GgufTensorType::bf16},
    {"q8_0", GgufTensorType::q8_0},
    {"q4_0", GgufTensorType::q4_0},
    {"q4_1", GgufTensorType::q4_1},
    {"q5_0", GgufTensorType::q5_0},
    {"q5_1", GgufTensorType::q5_1},
    {"q4_k", GgufTensorType::q4_k},
    {"q6_k", GgufTensorType::q6_k},
    {"mxfp4", GgufTensorType::mxfp4},
}};

void store_half(float value, uint8_t* out) {
  const uint16_t half = float_to_half(value);
  std::memcpy(out, &half, sizeof(half));
}

// 1 / d, and 0 where that is no number: d then is 0 in fp16.
float inverse_of(float d) {
  const float inverse = 1.0f / d;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// ⌊x + ½⌋ of a code that lies at 0 or above, at most `top`.
uint8_t code_of(float x, int top) {
  return static_cast<uint8_t>(std::clamp(static_cast<int>(x + 0.5f), 0, top));
}

void round_q8_0(const float* values, uint8_t* block) {
  float largest = 0;
  for (int i = 0; i < kBlockValues; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float d = largest / 127.0f;
  const float inverse = inverse_of(d);
  store_half(d, block);
  for (int i = 0; i < kBlockValues; ++i) {
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(values[i] * inverse)));
  }
}

// The scale of codes from −`half` to `half` − 1, by the value of largest magnitude (the first one).
void symmetric_codes(const float* values, int half, uint8_t* scale, uint8_t* codes) {
  float extreme = 0;
  for (int i = 0; i < kBlockValues; ++i) {
    if (std::fabs(values[i]) > std::fabs(extreme)) extreme = values[i];
  }
  const float d = extreme / static_cast<float>(-half);
  const float inverse = inverse_of(d);
  store_half(d, scale);
  for (int i = 0; i < kBlockValues; ++i) {
    // One sum, as the reference has it: the half that rounds and the shift together.
    const float shifted = values[i] * inverse + (static_cast<float>(half) + 0.5f);
    codes[i] = static_cast<uint8_t>(std::clamp(static_cast<int>(shifted), 0, 2 * half - 1));
  }
}

// Scale and minimum of codes from 0 to `top`, by the range of the values.
void affine_codes(const float* values, int top, uint8_t* scales, uint8_t* codes) {
  const auto [low, high] = std::minmax_element(values, values + kBlockValues);
  const float min = *low, d = (*high - *low) / static_cast<float>(top);
  const float inverse = inverse_of(d);
  store_half(d, scales);
  store_half(min, scales + 2);
  for (int i = 0; i < kBlockValues; ++i) codes[i] = code_of((values[i] - min) * inverse, top);
}

// 4 bytes of fifth bits, then 16 bytes of the four lower ones.
void pack_five_bits(const uint8_t* codes, uint8_t* out) {
  uint32_t high = 0;
  std::array<uint8_t, kBlockValues> low{};
  for (int i = 0; i < kBlockValues; ++i) {
    high |= static_cast<uint32_t>(codes[i] >> 4) << i;
    low[static_cast<size_t>(i)] = codes[i] & 15;
  }
  std::memcpy(out, &high, sizeof(high));
  gguf_pack_nibbles(low.data(), out + 4);
}

void round_q4_0(const float* values, uint8_t* block) {
  std::array<uint8_t, kBlockValues> codes{};
  symmetric_codes(values, 8, block, codes.data());
  gguf_pack_nibbles(codes.data(), block + 2);
}

void round_q4_1(const float* values, uint8_t* block) {
  std::array<uint8_t, kBlockValues> codes{};
  affine_codes(values, 15, block, codes.data());
  gguf_pack_nibbles(codes.data(), block + 4);
}

void round_q5_0(const float* values, uint8_t* block) {
  std::array<uint8_t, kBlockValues> codes{};
  symmetric_codes(values, 16, block, codes.data());
  pack_five_bits(codes.data(), block + 2);
}

void round_q5_1(const float* values, uint8_t* block) {
  std::array<uint8_t, kBlockValues> codes{};
  affine_codes(values, 31, block, codes.data());
  pack_five_bits(codes.data(), block + 4);
}

void round_bf16(const float* values, uint8_t* block) {
  const uint32_t bits = std::bit_cast<uint32_t>(*values);
  const auto rounded = static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
  std::memcpy(block, &rounded, sizeof(rounded));
}

template <class Block>
void round_blocks(const GgufTypeInfo& info, std::span<const float> values,
                  std::span<std::byte> blocks, Block&& block) {
  auto* out = reinterpret_cast<uint8_t*>(blocks.data());
  for (size_t i = 0; i < values.size(); i += info.block_size, out += info.block_bytes) {
    block(values.data() + i, out);
  }
}

}  // namespace

std::optional<GgufTensorType> gguf_written_type(std::string_view name) {
  for (const auto& [known, type] : kWritten) {
    if (known == name) return type;
  }
  return std::nullopt;
}

void gguf_pack_nibbles(const uint8_t* codes, uint8_t* out) {
  for (int i = 0; i < kBlockValues / 2; ++i) {
    out[i] = static_cast<uint8_t>(codes[i] | codes[i + kBlockValues / 2] << 4);
  }
}

void gguf_quantize(GgufTensorType type, std::span<const float> values,
                   std::span<std::byte> blocks) {
  const GgufTypeInfo& info = gguf_type_of_blocks(type, values.size(), blocks.size());
  switch (type) {
    case GgufTensorType::f32:
      if (!values.empty()) std::memcpy(blocks.data(), values.data(), blocks.size());
      return;
    case GgufTensorType::f16:
      return round_blocks(info, values, blocks,
                          [](const float* in, uint8_t* out) { store_half(*in, out); });
    case GgufTensorType::bf16:
      return round_blocks(info, values, blocks, round_bf16);
    case GgufTensorType::q8_0:
      return round_blocks(info, values, blocks, round_q8_0);
    case GgufTensorType::q4_0:
      return round_blocks(info, values, blocks, round_q4_0);
    case GgufTensorType::q4_1:
      return round_blocks(info, values, blocks, round_q4_1);
    case GgufTensorType::q5_0:
      return round_blocks(info, values, blocks, round_q5_0);
    case GgufTensorType::q5_1:
      return round_blocks(info, values, blocks, round_q5_1);
    case GgufTensorType::q4_k:
      return round_blocks(info, values, blocks, gguf_quantize_q4_k);
    case GgufTensorType::q6_k:
      return round_blocks(info, values, blocks, gguf_quantize_q6_k);
    case GgufTensorType::q2_k:
    case GgufTensorType::q3_k:
    case GgufTensorType::q5_k:
    case GgufTensorType::iq4_nl:
    case GgufTensorType::iq4_xs:
    case GgufTensorType::tq1_0:
    case GgufTensorType::tq2_0:
    case GgufTensorType::mxfp4:
      break;
  }
  OSP_CHECK(false, "osp does not round values to {}", info.name);
}

}  // namespace osp
