// Equality with the Python package is in tests/python/test_quantize.py.
#include "osp/formats/compressed_tensors.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

std::vector<int8_t> codes_of(int64_t count, int64_t bits) {
  std::vector<int8_t> codes;
  const int64_t range = int64_t{1} << bits;
  for (int64_t i = 0; i < count; ++i) {
    codes.push_back(static_cast<int8_t>((i * 7 + i / 5) % range - range / 2));
  }
  return codes;
}

TEST(PackCodes, FourBitsAreEightNibblesFromTheLowest) {
  const std::vector<int8_t> codes = {-8, -7, -6, -5, -4, -3, -2, -1, 7};
  const std::vector<int32_t> words = pack_codes(codes, 1, 9, 4);
  ASSERT_EQ(words.size(), 2u);
  EXPECT_EQ(static_cast<uint32_t>(words[0]), 0x76543210u);
  EXPECT_EQ(words[1], 15);
}

TEST(PackCodes, AThreeBitCodeMayLieAcrossTwoWords) {
  std::vector<int8_t> codes(11, -4);  // 0 when stored
  codes[10] = 3;                      // bits 30, 31 and 32
  const std::vector<int32_t> words = pack_codes(codes, 1, 11, 3);
  ASSERT_EQ(words.size(), 2u);
  EXPECT_EQ(static_cast<uint32_t>(words[0]), 0xC0000000u);
  EXPECT_EQ(words[1], 1);
}

TEST(PackCodes, UnpackingGivesTheCodesBackForAllWidthsAndShapes) {
  for (int64_t bits = 1; bits <= 8; ++bits) {
    for (const int64_t columns : {1, 7, 32, 33, 100}) {
      const std::vector<int8_t> codes = codes_of(3 * columns, bits);
      const std::vector<int32_t> words = pack_codes(codes, 3, columns, bits);
      EXPECT_EQ(static_cast<int64_t>(words.size()), 3 * packed_words(columns, bits));
      EXPECT_EQ(unpack_codes(words, 3, columns, bits), codes) << bits << ' ' << columns;
    }
  }
}

TEST(PackCodes, TwoNibblesOfAByteBeginWithTheLowOne) {
  const std::vector<int8_t> codes = {1, 2, 15, 0, 8, 7};
  const std::vector<uint8_t> bytes = {0x21, 0x0F, 0x78};
  EXPECT_EQ(pack_nibbles(codes), bytes);
  EXPECT_EQ(unpack_nibbles(bytes), codes);
}

}  // namespace
}  // namespace osp
