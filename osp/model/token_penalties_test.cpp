#include "osp/model/token_penalties.h"

#include <gtest/gtest.h>

#include <vector>

namespace osp {
namespace {

using Logits = std::vector<float>;

TEST(TokenPenalties, PresenceCountsOnceAndFrequencyEachTimeWithoutThePrompt) {
  TokenPenalties penalties({.presence = 0.5, .frequency = 0.25}, std::vector<int32_t>{0, 1});
  Logits logits{1, 2, 3, -4};
  penalties.apply(logits);
  EXPECT_EQ(logits, (Logits{1, 2, 3, -4}));
  for (const int32_t id : {1, 3, 3, 3}) penalties.written(id);
  penalties.apply(logits);
  EXPECT_EQ(logits, (Logits{1, 1.25, 3, -5.25}));
}

TEST(TokenPenalties, RepetitionMovesTokensOfPromptAndAnswerTowardsLessLikely) {
  TokenPenalties penalties({.presence = 1, .repetition = 2}, std::vector<int32_t>{0, 3, 3, 9});
  penalties.written(1);
  Logits logits{1, 2, 3, -4};
  penalties.apply(logits);
  EXPECT_EQ(logits, (Logits{0.5, 0, 3, -8}));
}

TEST(TokenPenalties, NegativeOnesEncourage) {
  TokenPenalties penalties({.presence = -1, .frequency = -0.5}, {});
  EXPECT_TRUE(penalties.any());
  EXPECT_FALSE(TokenPenalties({}, {}).any());
  penalties.written(2);
  penalties.written(2);
  Logits logits{1, 2, 3};
  penalties.apply(logits);
  EXPECT_EQ(logits, (Logits{1, 2, 5}));
}

}  // namespace
}  // namespace osp
