#include "osp/measure/expert_tap.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "osp/model/test_model.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

TEST(ExpertTap, CountsEveryTokenOfEveryExpertOfSparseBlocks) {
  const ParameterStore store = small_expert_model(/*dense_first=*/true);
  ExpertTap tap(store);
  ForwardOptions options;
  options.tap = &tap;
  for (int pass = 0; pass < 2; ++pass) {
    forward_logits(store, at::arange(24, at::kLong).view({2, 12}), options);
  }
  ASSERT_EQ(tap.experts().size(), 5u);
  int64_t tokens = 0;
  for (const auto& [place, statistics] : tap.experts()) {
    EXPECT_EQ(place.first, 1);  // block 0 is dense
    tokens += statistics.tokens;
    EXPECT_EQ(statistics.input.weight, static_cast<double>(statistics.tokens));
    EXPECT_EQ(statistics.down_input.weight, static_cast<double>(statistics.tokens));
  }
  EXPECT_EQ(tokens, 2 * 24 * 2);
}

TEST(ExpertTap, WantsNothingOfAModelWithoutExperts) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  EXPECT_FALSE(ExpertTap(store).wants_linear());
}

}  // namespace
}  // namespace osp
