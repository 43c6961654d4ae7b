// Half precision against its definition on every half and around every
// rounding boundary.
#include "osp/formats/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

namespace osp {
namespace {

// The value by the definition: (−1)^s 2^(e−25) (1024 + f), or 2^−24 f for e = 0.
float by_definition(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(fraction), -24)
                              : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

bool is_finite(uint32_t half) { return (half & 0x7C00u) != 0x7C00u; }

TEST(Half, EveryFiniteHalfHasItsValueAndComesBack) {
  for (uint32_t half = 0; half < 65536; ++half) {
    const auto bits = static_cast<uint16_t>(half);
    if (!is_finite(half)) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(half_to_float(bits)),
              std::bit_cast<uint32_t>(by_definition(bits)));
    ASSERT_EQ(float_to_half(half_to_float(bits)), bits);
  }
}

TEST(Half, RoundsToNearestAndTiesToEven) {
  for (uint32_t half = 0; half + 1 < 0x7C00u; ++half) {
    const float low = half_to_float(static_cast<uint16_t>(half));
    const float high = half_to_float(static_cast<uint16_t>(half + 1));
    const float middle = low + (high - low) / 2;  // exact: a half has 13 bits less than a float
    ASSERT_EQ(float_to_half(middle), half + (half & 1)) << half;
    ASSERT_EQ(float_to_half(std::nextafter(middle, low)), half);
    ASSERT_EQ(float_to_half(std::nextafter(middle, high)), half + 1);
    ASSERT_EQ(float_to_half(-middle), 0x8000u | (half + (half & 1)));
  }
}

TEST(Half, LargeValuesAndNanStaySpecial) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(float_to_half(65519.996f), 0x7BFF);
  EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
  EXPECT_EQ(float_to_half(-kInfinity), 0xFC00);
  EXPECT_EQ(half_to_float(0x7C00), kInfinity);
  EXPECT_TRUE(std::isnan(half_to_float(0xFE01)));
  EXPECT_EQ(float_to_half(std::nanf("")) & 0x7E00, 0x7E00);
}

}  // namespace
}  // namespace osp
