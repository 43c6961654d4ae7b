// Values to blocks and back. tests/python/test_gguf.py compares the blocks with those of
// the package gguf.
#include "osp/formats/gguf_quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace osp {
namespace {

std::vector<float> back_of(GgufTensorType type, const std::vector<float>& values) {
  const GgufTypeInfo& info = gguf_type_info(type);
  std::vector<std::byte> blocks(values.size() / info.block_size * info.block_bytes);
  gguf_quantize(type, values, blocks);
  std::vector<float> back(values.size());
  gguf_dequantize(type, blocks, back);
  return back;
}

double error_of(GgufTensorType type, const std::vector<float>& values) {
  const std::vector<float> back = back_of(type, values);
  double error = 0;
  for (size_t i = 0; i < values.size(); ++i) error += std::pow(double{back[i]} - values[i], 2);
  return error;
}

// 1024 numbers of bell shape: sums of four waves without a common period.
std::vector<float> some_values() {
  std::vector<float> values(1024);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto x = static_cast<float>(i);
    values[i] =
        std::sin(x * 1.7f) + std::sin(x * x * 0.37f) + std::sin(x * 5.3f) + std::sin(x * 0.9f);
  }
  return values;
}

TEST(GgufQuantize, Q8IsWithinHalfAStepAndKeepsZeros) {
  std::vector<float> values(64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i) * 1.7f) * 3;
  const std::vector<float> back = back_of(GgufTensorType::q8_0, values);
  // Half a step of 3/127, and the scale's rounding to fp16 (2^-11) of the largest value.
  for (size_t i = 0; i < 64; ++i) EXPECT_NEAR(back[i], values[i], 3.0f / 254 + 3.0f / 2048);
}

TEST(GgufQuantize, EveryTypeKeepsZerosAndWhatItHoldsAlready) {
  const std::vector<float> zeros(256, 0.0f), values = some_values();
  for (const char* name : {"f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1", "q6_k", "q4_k"}) {
    const GgufTensorType type = *gguf_written_type(name);
    EXPECT_EQ(back_of(type, zeros), zeros) << name;
    for (const float value : back_of(type, values)) EXPECT_TRUE(std::isfinite(value)) << name;
  }
  // Numbers beyond what an inverse can be computed of are 0 in fp16.
  for (const char* name : {"q8_0", "q4_0", "q4_1"}) {
    EXPECT_EQ(back_of(*gguf_written_type(name), std::vector<float>(32, 1e-42f)).front(), 0.0f);
  }
}

TEST(GgufQuantize, MoreBitsLoseLessAndFitsLoseLessThanRanges) {
  const std::vector<float> values = some_values();
  const double q4_k = error_of(GgufTensorType::q4_k, values);
  EXPECT_LT(q4_k, 0.8 * error_of(GgufTensorType::q4_0, values));
  EXPECT_LT(error_of(GgufTensorType::q6_k, values), 0.1 * q4_k);
  EXPECT_LT(error_of(GgufTensorType::q8_0, values), error_of(GgufTensorType::q6_k, values));
}

TEST(GgufQuantize, KTypesHoldSmallPartsBesideLargeOnes) {
  std::vector<float> values = some_values();
  values.resize(256);
  for (size_t i = 0; i < 32; ++i) values[i] *= 0.05f;
  const std::vector<float> back = back_of(GgufTensorType::q4_k, values);
  // The part's own range, not that of the block: a step of 0.05 * 8 / 15 and its scale in 63rds.
  for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(back[i], values[i], 0.08f) << i;
}

TEST(GgufQuantize, NamesAreThoseOfTypesThatAreWritten) {
  EXPECT_EQ(gguf_written_type("q4_k"), GgufTensorType::q4_k);
  EXPECT_EQ(gguf_written_type("fp32"), GgufTensorType::f32);
  EXPECT_EQ(gguf_written_type("q2_k"), std::nullopt);
  EXPECT_EQ(gguf_written_type("Q4_K"), std::nullopt);
}

}  // namespace
}  // namespace osp
