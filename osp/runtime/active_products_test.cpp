#include "osp/runtime/active_products.h"

#include <gtest/gtest.h>

#include <cstring>

#include "osp/ops/isa.h"
#include "osp/runtime/test_emulated_amx.h"

namespace osp {
namespace {

using kernels::CodeProducts;
using kernels::kPanelOutputs;

// Wrong in one integer of the last output alone.
template <const CodeProducts& right()>
void wrong_nibbles(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines,
                   int largest, int32_t* out) {
  right().nibbles[2][1](a, panels, stride, lines, largest, out);
  out[4 * 2 * kPanelOutputs - 1] += 1;
}
void wrong_bytes(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int largest,
                 int32_t* out) {
  kernels::code_products_portable().bytes[3][2](a, panels, stride, lines, largest, out);
  out[0] -= 1;
}
void wrong_wide(const int8_t* a, int64_t a_stride, const uint8_t* lines, int64_t stride,
                int64_t steps, int32_t* out) {
  code_products_emulated_amx().wide->tiles[1][0](a, a_stride, lines, stride, steps, out);
  out[31 * kPanelOutputs] += 1;
}
void unpacks_signed_codes(const uint8_t* nibbles, int64_t lines, uint8_t* bytes) {
  code_products_emulated_amx().wide->unpack(nibbles, lines, bytes);
  for (int64_t i = 0; i < 2 * lines * kernels::kLineBytes; ++i) {
    bytes[i] = static_cast<uint8_t>(bytes[i] - 8);
  }
}

TEST(ActiveProducts, EveryLevelOfThisMachineIsExact) {
  EXPECT_TRUE(gives_exact_products(kernels::code_products_portable()));
  if (detect_isa() >= Isa::avx2) {
    EXPECT_TRUE(gives_exact_products(kernels::code_products_avx2()));
  }
  if (has_avx512_vnni()) {
    EXPECT_TRUE(gives_exact_products(kernels::code_products_avx512vnni()));
  }
  for (const CodeProducts* level : wide_levels()) {
    EXPECT_TRUE(gives_exact_products(*level)) << level->name;
  }
  EXPECT_TRUE(gives_exact_products(active_code_products()));
}

TEST(ActiveProducts, ALevelWithOneWrongIntegerIsPassedOverWithAWarning) {
  const CodeProducts& portable = kernels::code_products_portable();
  CodeProducts nibbles = portable, bytes = portable, wide = portable, signs = portable;
  nibbles.name = "wrong-nibbles";
  nibbles.nibbles[2][1] = wrong_nibbles<kernels::code_products_portable>;
  bytes.name = "wrong-bytes";
  bytes.bytes[3][2] = wrong_bytes;
  kernels::WideProducts wrong = *code_products_emulated_amx().wide;
  wrong.tiles[1][0] = wrong_wide;
  wide.name = "wrong-wide";
  wide.wide = &wrong;
  kernels::WideProducts with_signs = *code_products_emulated_amx().wide;
  with_signs.unpack = unpacks_signed_codes;
  signs.name = "wrong-signs";
  signs.wide = &with_signs;
  for (const CodeProducts* level : {&nibbles, &bytes, &wide, &signs}) {
    const CodeProducts* const levels[] = {level, &code_products_emulated_amx(), &portable};
    testing::internal::CaptureStderr();
    EXPECT_EQ(first_exact_products(levels).name, code_products_emulated_amx().name);
    const std::string text = testing::internal::GetCapturedStderr();
    EXPECT_EQ(text.find("warning: the " + std::string(level->name) + " products"), 0u) << text;
    EXPECT_NE(text.find("amx-int8, emulated instead"), std::string::npos) << text;
  }
}

TEST(ActiveProducts, ExactLevelsAreTakenWithoutAWord) {
  const CodeProducts* const levels[] = {&code_products_emulated_amx(),
                                        &kernels::code_products_portable()};
  testing::internal::CaptureStderr();
  EXPECT_EQ(&first_exact_products(levels), levels[0]);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ActiveProducts, TheProductsOfTheRegisterPeakAreCounted) {
  // 4 sums of 16 × 16 products of 64 columns a step.
  EXPECT_EQ(code_products_emulated_amx().register_products(2), 2 * 4 * 16 * 16 * 64);
}

TEST(ActiveProducts, AmxIsTakenWhereTheMachineHasIt) {
  if (!has_amx_int8()) GTEST_SKIP() << "no AMX-INT8 here: its logic is tested by an emulation only";
  EXPECT_STREQ(active_code_products().name, "amx-int8");
  EXPECT_EQ(active_code_products().register_products(2), 2 * 4 * 16 * 16 * 64);
}

}  // namespace
}  // namespace osp
