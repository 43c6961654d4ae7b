#include "osp/formats/gguf_blocks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/e2m1.h"
#include "osp/formats/half.h"

namespace osp {
namespace {

static_assert(std::endian::native == std::endian::little, "blocks are read in place");

constexpr std::array<GgufTypeInfo, 18> kTypes = {{
    {GgufTensorType::f32, "F32", 1, 4},
    {GgufTensorType::f16, "F16", 1, 2},
    {GgufTensorType::bf16, "BF16", 1, 2},
    {GgufTensorType::q8_0, "Q8_0", 32, 34},
    {GgufTensorType::q4_0, "Q4_0", 32, 18},
    {GgufTensorType::q4_1, "Q4_1", 32, 20},
    {GgufTensorType::q5_0, "Q5_0", 32, 22},
    {GgufTensorType::q5_1, "Q5_1", 32, 24},
    {GgufTensorType::q2_k, "Q2_K", 256, 84},
    {GgufTensorType::q3_k, "Q3_K", 256, 110},
    {GgufTensorType::q4_k, "Q4_K", 256, 144},
    {GgufTensorType::q5_k, "Q5_K", 256, 176},
    {GgufTensorType::q6_k, "Q6_K", 256, 210},
    {GgufTensorType::iq4_nl, "IQ4_NL", 32, 18},
    {GgufTensorType::iq4_xs, "IQ4_XS", 256, 136},
    {GgufTensorType::tq1_0, "TQ1_0", 256, 54},
    {GgufTensorType::tq2_0, "TQ2_0", 256, 66},
    {GgufTensorType::mxfp4, "MXFP4", 32, 17},
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

// Two halves of 128 values: in each, four runs of 32, which are the bit pairs of 32 bytes from low
// to high. A byte of scale (low nibble) and minimum (high nibble) serves 16 values.
void block_q2_k(const uint8_t* block, float* out) {
  const uint8_t* const codes = block + 16;
  const float d = load_half(block + 80), d_min = load_half(block + 82);
  for (int64_t part = 0; part < 16; ++part) {
    const float scale = d * static_cast<float>(block[part] & 15);
    const float min = d_min * static_cast<float>(block[part] >> 4);
    const int64_t run = part / 2;
    const uint8_t* const bytes = codes + run / 4 * 32 + part % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      out[part * 16 + i] = scale * static_cast<float>(bytes[i] >> run % 4 * 2 & 3) - min;
    }
  }
}

// The bit pairs as Q2_K's. Bit `run` of mask[i] is set where value i of a run is not to be
// lowered by 4. Scales have 6 bits, biased by 32: the nibbles of 8 bytes (low ones first), and
// bit pairs of 4 bytes.
void block_q3_k(const uint8_t* block, float* out) {
  const uint8_t *const mask = block, *const codes = block + 32, *const scales = block + 96;
  const float d = load_half(block + 108);
  for (int part = 0; part < 16; ++part) {
    const int low = scales[part % 8] >> part / 8 * 4 & 15;
    const int high = scales[8 + part % 4] >> part / 4 * 2 & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int run = part / 2, first = part % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      const int code = codes[run / 4 * 32 + first + i] >> run % 4 * 2 & 3;
      const int lowered = mask[first + i] >> run & 1 ? 0 : 4;
      out[part * 16 + i] = scale * static_cast<float>(code - lowered);
    }
  }
}

constexpr std::array<float, 16> kFourBits = {-127, -104, -83, -65, -49, -35, -22, -10,
                                             1,    13,   25,  38,  53,  69,  89,  113};

void block_iq4_nl(const uint8_t* block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < kBlock; ++i) {
    out[i] = d * kFourBits[static_cast<size_t>(nibble(block + 2, i))];
  }
}

// Eight parts of 32 with scales of 6 bits, biased by 32: nibbles of 4 bytes, and bit
// pairs of 2 bytes.
void block_iq4_xs(const uint8_t* block, float* out) {
  const float d = load_half(block);
  const int high = load_u16(block + 2);
  for (int64_t part = 0; part < 8; ++part) {
    const int low = block[4 + part / 2] >> part % 2 * 4 & 15;
    const float scale = d * static_cast<float>((low | (high >> 2 * part & 3) << 4) - 32);
    const uint8_t* const codes = block + 8 + part * 16;
    for (int i = 0; i < kBlock; ++i) {
      out[part * kBlock + i] = scale * kFourBits[static_cast<size_t>(nibble(codes, i))];
    }
  }
}

// Digit n of a byte that stands for a fraction of 256 in base 3: −1, 0 or 1.
float ternary(uint8_t byte, int n) {
  for (; n > 0; --n) byte = static_cast<uint8_t>(byte * 3);
  return static_cast<float>((byte * 3 >> 8) - 1);
}

// 32 bytes of five digits, 16 bytes of five, 4 bytes of four: first the first digits of a
// group's bytes.
void block_tq1_0(const uint8_t* block, float* out) {
  const float d = load_half(block + 52);
  for (int n = 0; n < 5; ++n) {
    for (int i = 0; i < 32; ++i) out[n * 32 + i] = d * ternary(block[i], n);
    for (int i = 0; i < 16; ++i) out[160 + n * 16 + i] = d * ternary(block[32 + i], n);
  }
  for (int n = 0; n < 4; ++n) {
    for (int i = 0; i < 4; ++i) out[240 + n * 4 + i] = d * ternary(block[48 + i], n);
  }
}

void block_tq2_0(const uint8_t* block, float* out) {
  const float d = load_half(block + 64);
  for (int run = 0; run < 8; ++run) {
    for (int i = 0; i < 32; ++i) {
      const int code = block[run / 4 * 32 + i] >> run % 4 * 2 & 3;
      out[run * 32 + i] = d * static_cast<float>(code - 1);
    }
  }
}

void block_mxfp4(const uint8_t* block, float* out) {
  if (block[0] == 255)
    fail(ErrorCode::damaged, "the scale of an MXFP4 block is 255, which is no number");
  const float d = std::ldexp(1.0f, block[0] - 127);
  for (int i = 0; i < kBlock; ++i) {
    const int code = nibble(block + 1, i);
    const float magnitude = kE2m1[static_cast<size_t>(code & 7)];
    out[i] = d * ((code & 8) != 0 ? 0.0f - magnitude : magnitude);
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

const GgufTypeInfo& gguf_type_of_blocks(GgufTensorType type, size_t values, size_t bytes) {
  const GgufTypeInfo& info = gguf_type_info(type);
  OSP_CHECK(values % info.block_size == 0 && bytes == values / info.block_size * info.block_bytes,
            "{} values of {} in {} bytes", values, info.name, bytes);
  return info;
}

std::string_view gguf_type_name(uint32_t type) { return type < kNames.size() ? kNames[type] : ""; }

std::string gguf_types_read() {
  std::vector<std::string_view> names;
  for (const GgufTypeInfo& info : kTypes) names.push_back(info.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

void gguf_dequantize(GgufTensorType type, std::span<const std::byte> blocks,
                     std::span<float> values) {
  const GgufTypeInfo& info = gguf_type_of_blocks(type, values.size(), blocks.size());
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
    case GgufTensorType::q2_k:
      return for_each_block(info, blocks, values, block_q2_k);
    case GgufTensorType::q3_k:
      return for_each_block(info, blocks, values, block_q3_k);
    case GgufTensorType::iq4_nl:
      return for_each_block(info, blocks, values, block_iq4_nl);
    case GgufTensorType::iq4_xs:
      return for_each_block(info, blocks, values, block_iq4_xs);
    case GgufTensorType::tq1_0:
      return for_each_block(info, blocks, values, block_tq1_0);
    case GgufTensorType::tq2_0:
      return for_each_block(info, blocks, values, block_tq2_0);
    case GgufTensorType::mxfp4:
      return for_each_block(info, blocks, values, block_mxfp4);
  }
}

}  // namespace osp
