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

TEST(Bits, AnythingElseIsAUsageErrorThatQuotesIt) {
  for (const char* bad :
       {"", "4", "4-4", "4-4-", "4-4-4-4", "4--4", "1-4-4", "9-4-4", "4-4-17", "4-4-4 ", " 4-4-4",
        "+4-4-4", "4x-4-4", "a-b-c", "99999999999999999999-4-4"}) {
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
