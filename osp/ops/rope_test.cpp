// The rotary embedding: the reference twin, finite differences, the split of q, k and v.
#include "osp/ops/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include <vector>

#include "osp/ops/rope_scaling.h"
#include "osp/ops/test_operators.h"

namespace osp {
namespace {

TEST(RotaryFraction, MeansItsChannelsForEverySizeOfHead) {
  int64_t quotients_that_would_not = 0;
  for (int64_t head = 2; head <= 512; ++head) {
    for (int64_t channels = 1; channels <= head; ++channels) {
      const double fraction = rotary_fraction(channels, head), whole = static_cast<double>(head);
      ASSERT_EQ(static_cast<int64_t>(whole * fraction), channels) << head;
      ASSERT_LE(fraction, 1.0);
      const double quotient = static_cast<double>(channels) / whole;
      quotients_that_would_not += static_cast<int64_t>(whole * quotient) != channels ? 1 : 0;
    }
  }
  EXPECT_GT(quotients_that_would_not, 0);
}

std::vector<OperatorCase> rope_cases() {
  const RopeTables tables = make_rope_tables(16, 8, 10000.0);
  return {
      {"rope",
       [=](const auto& x) { return rope(x[0], tables, 3); },
       [=](const auto& x) { return rope_reference(x[0], tables, 3); },
       {{2, 9, 3, 8}}},
      {"split_rope",
       [=](const auto& x) {
         const auto [q, k, v] = split_rope(x[0], 4, 2, tables, 0);
         return at::cat({q, k, v}, 2);
       },
       [=](const auto& x) {
         const at::Tensor split = x[0].view({2, 6, 8, 8});
         return at::cat({rope_reference(split.narrow(2, 0, 6), tables, 0), split.narrow(2, 6, 2)},
                        2);
       },
       {{2, 6, 64}}},
  };
}

TEST(Rope, EqualsItsReferenceTwin) {
  for (const OperatorCase& c : rope_cases()) expect_equals_twin(c);
}

TEST(Rope, InBf16StaysWithinItsRounding) {
  for (const OperatorCase& c : rope_cases()) expect_within_bf16_rounding(c);
}

TEST(Rope, GradientsEqualFiniteDifferences) {
  for (const OperatorCase& c : rope_cases()) expect_gradients_of_differences(c);
}

}  // namespace
}  // namespace osp
