// Blocks against values worked out by hand from the layout. Every type is compared with the
// reference implementation on random blocks in tests/python/test_gguf.py.
#include "osp/formats/gguf_blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "osp/formats/half.h"

namespace osp {
namespace {

// A block put together from fp16 numbers and bytes.
class Block {
 public:
  Block& half(float value) {
    const uint16_t bits = float_to_half(value);
    bytes_.push_back(static_cast<std::byte>(bits & 255));
    bytes_.push_back(static_cast<std::byte>(bits >> 8));
    return *this;
  }
  Block& bytes(std::initializer_list<int> values) {
    for (const int value : values) bytes_.push_back(static_cast<std::byte>(value));
    return *this;
  }
  Block& repeat(int value, int count) {
    bytes_.insert(bytes_.end(), static_cast<size_t>(count), static_cast<std::byte>(value));
    return *this;
  }
  std::vector<float> values(GgufTensorType type) const {
    const GgufTypeInfo& info = gguf_type_info(type);
    EXPECT_EQ(bytes_.size(), info.block_bytes) << info.name;
    std::vector<float> result(info.block_size);
    gguf_dequantize(type, bytes_, result);
    return result;
  }

 private:
  std::vector<std::byte> bytes_;
};

TEST(GgufBlocks, LowNibblesComeBeforeHighNibbles) {
  const auto q4_0 = Block().half(0.5f).bytes({0x2F}).repeat(0x88, 15).values(GgufTensorType::q4_0);
  EXPECT_EQ(q4_0[0], 0.5f * 7);
  EXPECT_EQ(q4_0[16], 0.5f * -6);
  EXPECT_EQ(q4_0[1], 0.0f);
  const auto q4_1 =
      Block().half(0.5f).half(-1.0f).bytes({0x2F}).repeat(0, 15).values(GgufTensorType::q4_1);
  EXPECT_EQ(q4_1[0], 0.5f * 15 - 1);
  EXPECT_EQ(q4_1[16], 0.5f * 2 - 1);
  EXPECT_EQ(q4_1[31], -1.0f);
}

TEST(GgufBlocks, FifthBitsStandInOrder) {
  const auto q5_0 =
      Block().half(2.0f).bytes({1, 0, 1, 0x80}).repeat(0, 16).values(GgufTensorType::q5_0);
  EXPECT_EQ(q5_0[0], 2.0f * (16 - 16));
  EXPECT_EQ(q5_0[1], 2.0f * -16);
  EXPECT_EQ(q5_0[16], 0.0f);
  EXPECT_EQ(q5_0[31], 0.0f);
  const auto q5_1 = Block()
                        .half(2.0f)
                        .half(3.0f)
                        .bytes({2, 0, 0, 0})
                        .repeat(0x11, 16)
                        .values(GgufTensorType::q5_1);
  EXPECT_EQ(q5_1[0], 2.0f * 1 + 3);
  EXPECT_EQ(q5_1[1], 2.0f * 17 + 3);
}

TEST(GgufBlocks, Q8CodesAreSigned) {
  const auto values =
      Block().half(0.25f).bytes({0x80, 0x7F}).repeat(0, 30).values(GgufTensorType::q8_0);
  EXPECT_EQ(values[0], -32.0f);
  EXPECT_EQ(values[1], 31.75f);
}

// Part j of a K block has the scale j + 1, or 33 + j where its upper bits count, and the minimum j.
TEST(GgufBlocks, KScalesArePackedInSixBits) {
  // Bytes 0–3: s_j + the upper two bits of s_(j+4) · 64; bytes 4–7 the same for the minima;
  // bytes 8–11: the lower four bits of s_(j+4) and m_(j+4).
  const std::initializer_list<int> packed = {1 | 2 << 6, 2 | 2 << 6, 3 | 2 << 6, 4 | 2 << 6,  //
                                             0,          1,          2,          3,           //
                                             5 | 4 << 4, 6 | 5 << 4, 7 | 6 << 4, 8 | 7 << 4};
  const auto q4 =
      Block().half(1.0f).half(0.5f).bytes(packed).repeat(0x21, 128).values(GgufTensorType::q4_k);
  const auto q5 =
      Block().half(1.0f).half(0.5f).bytes(packed).repeat(0x02, 32).repeat(0x21, 128).values(
          GgufTensorType::q5_k);
  for (int part = 0; part < 8; ++part) {
    const float scale = static_cast<float>(part < 4 ? part + 1 : 32 + part + 1);
    const float min = 0.5f * static_cast<float>(part);
    const float code = part % 2 == 0 ? 1.0f : 2.0f;
    EXPECT_EQ(q4[static_cast<size_t>(part) * 32], scale * code - min) << part;
    // Bit 1 of the high bits belongs to part 1.
    EXPECT_EQ(q5[static_cast<size_t>(part) * 32 + 31], scale * (part == 1 ? 18.0f : code) - min)
        << part;
  }
}

TEST(GgufBlocks, Q6HasSignedScalesForSixteenValues) {
  Block block;
  block.repeat(0x51, 128);       // low bits: runs 0, 1, 4, 5 have 1, the others 5
  block.repeat(0b11100100, 64);  // upper bits: 0, 1, 2, 3 by run
  block.bytes({1, -1}).repeat(2, 14).half(0.5f);
  const auto values = block.values(GgufTensorType::q6_k);
  EXPECT_EQ(values[0], 0.5f * (1 - 32));
  EXPECT_EQ(values[16], -0.5f * (1 - 32));
  EXPECT_EQ(values[32], (1 + 16 - 32) * 1.0f);
  EXPECT_EQ(values[64], (5 + 32 - 32) * 1.0f);
  EXPECT_EQ(values[255], (5 + 48 - 32) * 1.0f);
}

TEST(GgufBlocks, PlainTypesAreWidenedExactly) {
  std::vector<float> value(1);
  const std::byte one_and_a_half[2] = {std::byte{0xC0}, std::byte{0x3F}};
  gguf_dequantize(GgufTensorType::bf16, one_and_a_half, value);
  EXPECT_EQ(value[0], 1.5f);
  const std::byte smallest[2] = {std::byte{1}, std::byte{0x80}};
  gguf_dequantize(GgufTensorType::f16, smallest, value);
  EXPECT_EQ(value[0], -std::ldexp(1.0f, -24));
}

TEST(GgufBlocks, TypesThatAreNotReadHaveNames) {
  EXPECT_EQ(gguf_type_info(uint32_t{16}), nullptr);
  EXPECT_EQ(gguf_type_name(23), "IQ4_XS");
  EXPECT_EQ(gguf_type_name(30), "BF16");
  EXPECT_EQ(gguf_type_name(39), "MXFP4");
  EXPECT_EQ(gguf_type_name(4), "");
  EXPECT_EQ(gguf_type_name(1u << 31), "");
}

}  // namespace
}  // namespace osp
