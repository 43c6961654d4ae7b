#include "osp/model/gguf_rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace osp {
namespace {

constexpr double kLow = 1.0, kHigh = 4.0, kContext = 8192.0;
// Converters compute in fp32; neighbouring factors differ by more than a percent.
constexpr double kTolerance = 1e-3;

bool all_near(std::span<const float> found, const std::vector<double>& expected) {
  return std::equal(found.begin(), found.end(), expected.begin(), expected.end(),
                    [](float a, double b) { return std::fabs(a - b) <= kTolerance * b; });
}

}  // namespace

std::vector<double> llama3_divisors(double base, int64_t head_size, double factor) {
  std::vector<double> divisors;
  for (int64_t i = 0; i < head_size / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(head_size);
    const double turns = kContext * std::pow(base, exponent) / (2.0 * std::numbers::pi);
    const double share = std::clamp((turns - kLow) / (kHigh - kLow), 0.0, 1.0);
    divisors.push_back(1.0 / ((1.0 - share) / factor + share));
  }
  return divisors;
}

Json rope_scaling_of_divisors(std::span<const float> divisors, double base) {
  if (std::all_of(divisors.begin(), divisors.end(), [](float d) { return d == 1.0f; })) {
    return nullptr;
  }
  const auto head_size = static_cast<int64_t>(2 * divisors.size());
  // The lowest frequencies are divided by the whole factor, which is a whole number as a rule.
  const double largest = *std::max_element(divisors.begin(), divisors.end());
  for (const double factor : {std::round(largest), largest}) {
    if (!all_near(divisors, llama3_divisors(base, head_size, factor))) continue;
    return {{"rope_type", "llama3"},
            {"factor", factor},
            {"low_freq_factor", kLow},
            {"high_freq_factor", kHigh},
            {"original_max_position_embeddings", static_cast<int64_t>(kContext)}};
  }
  return Json(Json::value_t::discarded);
}

bool has_llama3_divisors(const RopeScaling& scaling) {
  return scaling.type == "llama3" && scaling.low_frequency_factor == kLow &&
         scaling.high_frequency_factor == kHigh &&
         scaling.original_context == static_cast<int64_t>(kContext);
}

}  // namespace osp
