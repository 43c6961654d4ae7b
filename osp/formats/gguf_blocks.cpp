#include "osp/formats/gguf_blocks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/half.h"

namespace osp {
namespace {

static_assert(std::endian::native == std::endian::little, "blocks are read in place");

constexpr std::array<GgufTypeInfo, 11> kTypes = {{
    {GgufTensorType::f32, "F32", 1, 4},
    {GgufTensorType::f16, "F16", 1, 2},
    {GgufTensorType::bf16, "BF16", 1, 2},
    {GgufTensorType::q8_0, "Q8_0", 32, 34},
    {GgufTensorType::q4_0, "Q4_0", 32, 18},
    {GgufTensorType::q4_1, "Q4_1", 32, 20},
    {GgufTensorType::q5_0, "Q5_0", 32, 22},
    {GgufTensorType::q5_1, "Q5_1", 32, 24},
    {GgufTensorType::q4_k, "Q4_K", 256, 144},
    {GgufTensorType::q5_k, "Q5_K", 256, 176},
    {GgufTensorType::q6_k, "Q6_K", 256, 210},
}};

// By number; "" where a number was never used or no longer is.
constexpr std::array<std::string_view, 43> kNames = {
    "F32",     "F16",   "Q4_0",   "Q4_1",  "",      "",       "Q5_0", "Q5_1",    "Q8_0",
    "Q8_1",    "Q2_K",  "Q3_K",   "Q4_K",  "Q5_K",  "Q6_K",   "Q8_K", "IQ2_XXS", "IQ2_XS",
    "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",   "I16",     "I32",
    "I64",     "F64",   "IQ1_M",  "BF16",  "",      "",       "",     "TQ1_0",   "TQ2_0",
    "",        "",      "",       "MXFP4", "NVFP4", "Q1_0",   "Q2_0"};

constexpr int kBlock = 32;
constexpr int kSuperBlock = 256;

const uint8_t* bytes_of(const std::byte* data) { return reinterpret_cast<const uint8_t*>(data); }

uint16_t load_u16(const uint8_t* data) {
  return static_cast<uint16_t>(data[0] | static_cast<uint16_t>(data[1]) << 8);
}

uint32_t load_u32(const uint8_t* data) {
  uint32_t value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

float load_half(const uint8_t* data) { return half_to_float(load_u16(data)); }

// The 32 nibbles of 16 bytes: value i is the low half of byte i, value i + 16 its high half.
int nibble(const uint8_t* codes, int i) { return i < 16 ? codes[i] & 15 : codes[i - 16] >> 4; }

void block_q4_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(nibble(block + 2, i) - 8);
}

void block_q4_1(const uint8_t* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  for (int i = 0; i < kBlock; ++i) out[i] = d * static_cast<float>(nibble(block + 4, i)) + m;
}

// Bit i of the 32 `high` bits is the fifth bit of value i.
int five_bits(const uint8_t* codes, uint32_t high, int i) {
  return nibble(codes, i) | static_cast<int>(high >> i & 1u) << 4;
}

void block_q5_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  const uint32_t high = load_u32(block + 2);
  for (int i = 0; i < kBlock; ++i) {
    out[i] = d * static_cast<float>(five_bits(block + 6, high, i) - 16);
  }
}

void block_q5_1(const uint8_t* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  const uint32_t high = load_u32(block + 4);
  for (int i = 0; i < kBlock; ++i) {
    out[i] = d * static_cast<float>(five_bits(block + 8, high, i)) + m;
  }
}

void block_q8_0(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < kBlock; ++i)
    out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
}

// Scale s and minimum m (6 bits each) of part j of Q4_K and Q5_K. The 12 bytes hold the low bits of
// parts 0–3: s in bytes 0–3 and m in bytes 4–7; of parts 4–7: the nibbles of bytes 8–11, whose two
// upper bits are those of the bytes of part j − 4.
struct ScaleMin {
  float scale;
  float min;
};
ScaleMin scale_min(const uint8_t* packed, int j) {
  if (j < 4) {
    return {static_cast<float>(packed[j] & 63), static_cast<float>(packed[j + 4] & 63)};
  }
  const int scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
  const int min = packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
  return {static_cast<float>(scale), static_cast<float>(min)};
}

// 8 parts of 32 values; the low nibbles of 32 bytes are one part, the high nibbles the next.
void block_q4_k(const uint8_t* block, float* out) {
  const float d = load_half(block), d_min = load_half(block + 2);
  const uint8_t* codes = block + 16;
  for (int part = 0; part < 8; ++part) {
    const ScaleMin unit = scale_min(block + 4, part);
    const float scale = d * unit.scale, min = d_min * unit.min;
    const uint8_t* const low = codes + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      out[part * 32 + i] = scale * static_cast<float>(low[i] >> shift & 15) - min;
    }
  }
}

// As Q4_K; bit `part` of high[i] is the fifth bit of value i of the part.
void block_q5_k(const uint8_t* block, float* out) {
  const float d = load_half(block), d_min = load_half(block + 2);
  const uint8_t* const high = block + 16;
  const uint8_t* const codes = block + 48;
  for (int part = 0; part < 8; ++part) {
    const ScaleMin unit = scale_min(block + 4, part);
    const float scale = d * unit.scale, min = d_min * unit.min;
    const uint8_t* const low = codes + part / 2 * 32;
    const int shift = part % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int code = (low[i] >> shift & 15) | (high[i] >> part & 1) << 4;
      out[part * 32 + i] = scale * static_cast<float>(code) - min;
    }
  }
}

// Two halves of 128 values: in each, four runs of 32, whose low four bits are the low nibbles of 64
// bytes and then their high nibbles, and whose upper two bits are the bit pairs of 32 bytes. A
// scale serves 16 values.
void block_q6_k(const uint8_t* block, float* out) {
  const uint8_t* const scales = block + 192;
  const float d = load_half(block + 208);
  for (int run = 0; run < 8; ++run) {
    const int half = run / 4, in_half = run % 4;
    const uint8_t* const low = block + half * 64 + in_half % 2 * 32;
    const uint8_t* const high = block + 128 + half * 32;
    for (int i = 0; i < 32; ++i) {
      const int code = (low[i] >> in_half / 2 * 4 & 15) | (high[i] >> in_half * 2 & 3) << 4;
      const auto scale = static_cast<float>(static_cast<int8_t>(scales[run * 2 + i / 16]));
      out[run * 32 + i] = d * scale * static_cast<float>(code - 32);
    }
  }
}

template <class Block>
void for_each_block(const GgufTypeInfo& info, std::span<const std::byte> blocks,
                    std::span<float> values, Block&& block) {
  const uint8_t* in = bytes_of(blocks.data());
  for (size_t i = 0; i < values.size(); i += info.block_size, in += info.block_bytes) {
    block(in, values.data() + i);
  }
}

void quantize_q8_0(const float* values, uint8_t* block) {
  float largest = 0;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(values[i]));
  const float d = largest / 127.0f;
  const float inverse = d == 0 ? 0.0f : 1.0f / d;
  const uint16_t stored = float_to_half(d);
  std::memcpy(block, &stored, sizeof(stored));
  for (int i = 0; i < kBlock; ++i) {
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::round(values[i] * inverse)));
  }
}

}  // namespace

const GgufTypeInfo* gguf_type_info(uint32_t type) {
  for (const GgufTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == type) return &info;
  }
  return nullptr;
}

const GgufTypeInfo& gguf_type_info(GgufTensorType type) {
  const GgufTypeInfo* info = gguf_type_info(static_cast<uint32_t>(type));
  OSP_CHECK(info != nullptr, "tensor type {}", static_cast<uint32_t>(type));
  return *info;
}

std::string_view gguf_type_name(uint32_t type) { return type < kNames.size() ? kNames[type] : ""; }

std::string gguf_types_read() {
  std::vector<std::string_view> names;
  for (const GgufTypeInfo& info : kTypes) names.push_back(info.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

void gguf_dequantize(GgufTensorType type, std::span<const std::byte> blocks,
                     std::span<float> values) {
  const GgufTypeInfo& info = gguf_type_info(type);
  OSP_CHECK(values.size() % info.block_size == 0 &&
                blocks.size() == values.size() / info.block_size * info.block_bytes,
            "{} values of {} in {} bytes", values.size(), info.name, blocks.size());
  switch (type) {
    case GgufTensorType::f32:
      if (!values.empty()) std::memcpy(values.data(), blocks.data(), blocks.size());
      return;
    case GgufTensorType::f16:
      return for_each_block(info, blocks, values,
                            [](const uint8_t* in, float* out) { *out = load_half(in); });
    case GgufTensorType::bf16:
      return for_each_block(info, blocks, values, [](const uint8_t* in, float* out) {
        *out = std::bit_cast<float>(static_cast<uint32_t>(load_u16(in)) << 16);
      });
    case GgufTensorType::q4_0:
      return for_each_block(info, blocks, values, block_q4_0);
    case GgufTensorType::q4_1:
      return for_each_block(info, blocks, values, block_q4_1);
    case GgufTensorType::q5_0:
      return for_each_block(info, blocks, values, block_q5_0);
    case GgufTensorType::q5_1:
      return for_each_block(info, blocks, values, block_q5_1);
    case GgufTensorType::q8_0:
      return for_each_block(info, blocks, values, block_q8_0);
    case GgufTensorType::q4_k:
      return for_each_block(info, blocks, values, block_q4_k);
    case GgufTensorType::q5_k:
      return for_each_block(info, blocks, values, block_q5_k);
    case GgufTensorType::q6_k:
      return for_each_block(info, blocks, values, block_q6_k);
  }
}

void gguf_quantize(GgufTensorType type, std::span<const float> values,
                   std::span<std::byte> blocks) {
  const GgufTypeInfo& info = gguf_type_info(type);
  OSP_CHECK(values.size() % info.block_size == 0 &&
                blocks.size() == values.size() / info.block_size * info.block_bytes,
            "{} values of {} in {} bytes", values.size(), info.name, blocks.size());
  auto* out = reinterpret_cast<uint8_t*>(blocks.data());
  if (type == GgufTensorType::f32) {
    if (!values.empty()) std::memcpy(out, values.data(), blocks.size());
  } else if (type == GgufTensorType::f16) {
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t half = float_to_half(values[i]);
      std::memcpy(out + 2 * i, &half, sizeof(half));
    }
  } else {
    OSP_CHECK(type == GgufTensorType::q8_0, "osp does not quantize to {}", info.name);
    for (size_t i = 0; i < values.size(); i += kBlock, out += info.block_bytes) {
      quantize_q8_0(values.data() + i, out);
    }
  }
}

}  // namespace osp
