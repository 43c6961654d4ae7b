#include "osp/quant/bits.h"

#include <gtest/gtest.h>

#include "osp/base/error.h"

namespace osp {
namespace {

TEST(Bits, ThreeNumbersAreReadInOrder) {
  const BitWidths bits = parse_bits("4-8-16");
  EXPECT_EQ(bits, (BitWidths{.weights = 4, .activations = 8, .kv_cache = 16}));
  EXPECT_TRUE(bits.quantizes_weights());
  EXPECT_TRUE(bits.quantizes_activations());
  EXPECT_FALSE(bits.quantizes_kv_cache());
  EXPECT_EQ(bits.text(), "4-8-16");
}

TEST(Bits, ListIsSeparatedByCommas) {
  const auto list = parse_bits_list("16-16-16,4-4-4");
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0], BitWidths{});
  EXPECT_EQ(list[1].text(), "4-4-4");
}

TEST(Bits, NamesOfFloatingPointFormatsStandBesideNumbers) {
  const BitWidths bits = parse_bits("nvfp4-mxfp4-fp8");
  EXPECT_EQ(bits.weights, NumberFormat(NumberKind::nvfp4));
  EXPECT_EQ(bits.activations.kind, NumberKind::mxfp4);
  EXPECT_EQ(bits.activations.bits, 4);
  EXPECT_EQ(bits.kv_cache.bits, 8);
  EXPECT_NE(bits.kv_cache, NumberFormat(8));
  EXPECT_EQ(bits.text(), "nvfp4-mxfp4-fp8");
  EXPECT_TRUE(bits.quantizes_kv_cache());
  EXPECT_FALSE(bits.turns_keys());
  EXPECT_TRUE(parse_bits("nvfp4-16-4").turns_keys());
  EXPECT_TRUE(bits.any_float());
  EXPECT_FALSE(parse_bits("4-4-4").any_float());
}

TEST(Bits, AnythingElseIsAUsageErrorThatQuotesIt) {
  for (const char* bad :
       {"",        "4",           "4-4",         "4-4-",         "4-4-4-4",
        "4--4",    "1-4-4",       "9-4-4",       "4-4-17",       "4-4-4 ",
        " 4-4-4",  "+4-4-4",      "4x-4-4",      "a-b-c",        "99999999999999999999-4-4",
        "nvfp4",   "nvfp4-nvfp4", "NVFP4-16-16", "nvfp4 -16-16", "fp4-16-16",
        "int-4-4", "16-16-mxfp8"}) {
    try {
      parse_bits(bad);
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage);
      EXPECT_NE(std::string(error.what()).find('"' + std::string(bad) + '"'), std::string::npos);
    }
  }
  for (const char* bad : {"4-4-4,", ",4-4-4", "4-4-4,,4-4-4", "4-4-4;4-4-4"}) {
    EXPECT_THROW(parse_bits_list(bad), Error) << bad;
  }
}

}  // namespace
}  // namespace osp
