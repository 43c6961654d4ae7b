// Integers of blocks against the values of gguf_dequantize, and what has none.
#include "osp/formats/gguf_integers.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "osp/formats/half.h"

namespace osp {
namespace {

constexpr size_t kPerScale = 32;

struct Integers {
  std::vector<int8_t> codes, zeros;
  std::vector<float> scales;
  bool found = false;
};

Integers integers_of(GgufTensorType type, const std::vector<std::byte>& blocks) {
  const size_t count = blocks.size() / gguf_type_info(type).block_bytes;
  Integers result;
  result.codes.resize(count * kPerScale);
  result.zeros.resize(count);
  result.scales.resize(count);
  result.found = gguf_integers(type, blocks, result.codes, result.scales, result.zeros);
  return result;
}

void append_half(std::vector<std::byte>& bytes, float value) {
  const uint16_t half = float_to_half(value);
  bytes.push_back(static_cast<std::byte>(half & 255));
  bytes.push_back(static_cast<std::byte>(half >> 8));
}

// A block with a scale, of Q4_1 a minimum, and codes from a generator.
void append_block(std::vector<std::byte>& bytes, GgufTensorType type, float scale, float minimum,
                  std::mt19937& random) {
  append_half(bytes, scale);
  if (type == GgufTensorType::q4_1) append_half(bytes, minimum);
  for (int i = 0; i < (type == GgufTensorType::q8_0 ? 32 : 16); ++i) {
    auto byte = static_cast<uint8_t>(random());
    if (type == GgufTensorType::q8_0 && byte == 128) byte = 129;
    bytes.push_back(static_cast<std::byte>(byte));
  }
}

TEST(GgufIntegers, StandForTheVeryValuesOfTheBlocks) {
  std::mt19937 random(1);
  for (const GgufTensorType type :
       {GgufTensorType::q4_0, GgufTensorType::q4_1, GgufTensorType::q8_0}) {
    std::vector<std::byte> blocks;
    size_t count = 0;
    for (const float scale : {0.01F, -0.02F, 3.0F, -7.5F, 0.0F, 6e-8F}) {
      for (int zero = 0; zero < 16; ++zero) {
        const float exact = half_to_float(float_to_half(scale));
        // What a half holds of the multiples.
        const float minimum = -exact * static_cast<float>(zero);
        if (half_to_float(float_to_half(minimum)) != minimum) continue;
        append_block(blocks, type, scale, minimum, random);
        ++count;
      }
    }
    ASSERT_GT(count, 40u);
    const Integers integers = integers_of(type, blocks);
    ASSERT_TRUE(integers.found);
    std::vector<float> values(count * kPerScale);
    gguf_dequantize(type, blocks, values);
    const auto half_range = static_cast<float>(int64_t{1} << (gguf_integer_bits(type) - 1));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto code = static_cast<float>(integers.codes[i]);
      const auto zero = static_cast<float>(integers.zeros[i / kPerScale]);
      ASSERT_GT(integers.scales[i / kPerScale], 0.0F);
      ASSERT_TRUE(code >= -half_range && code < half_range && zero >= -half_range &&
                  zero < half_range);
      ASSERT_EQ(integers.scales[i / kPerScale] * (code - zero), values[i]) << i;
    }
  }
}

TEST(GgufIntegers, SymmetricBlocksHaveNoZeroPointUnlessTheScaleIsNegative) {
  std::mt19937 random(2);
  for (const auto& [type, scale, zero] : {std::tuple{GgufTensorType::q4_0, 0.5F, 0},
                                          {GgufTensorType::q4_0, -0.5F, -1},
                                          {GgufTensorType::q8_0, 0.5F, 0},
                                          {GgufTensorType::q8_0, -0.5F, 0}}) {
    std::vector<std::byte> block;
    append_block(block, type, scale, 0, random);
    EXPECT_EQ(integers_of(type, block).zeros.at(0), zero);
  }
}

TEST(GgufIntegers, AreNotFoundWhereThereAreNone) {
  std::mt19937 random(3);
  const auto found = [&](GgufTensorType type, float scale, float minimum) {
    std::vector<std::byte> blocks;
    append_block(blocks, type, 1, 0, random);
    append_block(blocks, type, scale, minimum, random);
    return integers_of(type, blocks).found;
  };
  const float infinite = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(found(GgufTensorType::q4_1, 0.5F, -7.5F));
  EXPECT_FALSE(found(GgufTensorType::q4_1, 0.5F, -7.25F));  // between two codes
  EXPECT_FALSE(found(GgufTensorType::q4_1, 0.5F, -8.0F));   // 16 scales below 0
  EXPECT_FALSE(found(GgufTensorType::q4_1, 0.5F, 0.5F));    // above 0
  EXPECT_FALSE(found(GgufTensorType::q4_1, 0.0F, 0.5F));
  EXPECT_FALSE(found(GgufTensorType::q4_0, infinite, 0));
  EXPECT_FALSE(found(GgufTensorType::q8_0, -infinite, 0));
  std::vector<std::byte> lowest;
  append_block(lowest, GgufTensorType::q8_0, -1, 0, random);
  lowest.back() = std::byte{128};
  EXPECT_FALSE(integers_of(GgufTensorType::q8_0, lowest).found);
  for (const GgufTensorType other : {GgufTensorType::q4_k, GgufTensorType::f16}) {
    EXPECT_EQ(gguf_integer_bits(other), 0);
  }
}

}  // namespace
}  // namespace osp
