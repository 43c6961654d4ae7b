#include "osp/report/task_items.h"

#include <gtest/gtest.h>

#include "osp/base/error.h"

namespace osp {
namespace {

TaskItems items(std::vector<uint8_t> correct) {
  TaskItems list{.bits = "4-4-4", .task = "piqa", .index = {}, .correct = {}, .questions = {}};
  for (size_t i = 0; i < correct.size(); ++i) {
    list.index.push_back(static_cast<int64_t>(i));
    list.questions.push_back(7 * i);
  }
  list.correct = std::move(correct);
  return list;
}

TEST(CompareItems, ErrorIsThatOfTheDifferences) {
  const PairedScores scores =
      compare_items(items({1, 1, 1, 1, 0, 0, 1, 0}), items({1, 0, 0, 0, 0, 1, 1, 0}));
  EXPECT_EQ(scores.lost, 3);
  EXPECT_EQ(scores.gained, 1);
  EXPECT_DOUBLE_EQ(scores.before, 0.625);
  EXPECT_DOUBLE_EQ(scores.after, 0.375);
  // numpy: numpy.std([0, -1, -1, -1, 0, 1, 0, 0], ddof=1) / 8 ** 0.5
  EXPECT_NEAR(scores.error, 0.25, 1e-12);
}

TEST(McNemar, IsTheExactBinomialTest) {
  // scipy.stats.binomtest(k, n).pvalue
  EXPECT_NEAR(mcnemar_p(3, 1), 0.625, 1e-12);
  EXPECT_NEAR(mcnemar_p(10, 2), 0.03857421875, 1e-12);
  EXPECT_NEAR(mcnemar_p(2, 10), 0.03857421875, 1e-12);
  EXPECT_EQ(mcnemar_p(0, 0), 1);
  EXPECT_EQ(mcnemar_p(5, 5), 1);
}

TEST(SameItems, OtherQuestionsOrPlacesAreNotCompared) {
  const TaskItems list = items({1, 0, 1});
  TaskItems other = list;
  EXPECT_TRUE(same_items(list, other));
  other.questions[1] = 1;
  EXPECT_FALSE(same_items(list, other));
  other = list;
  other.index[2] = 9;
  EXPECT_FALSE(same_items(list, other));
  EXPECT_THROW(compare_items(list, items({1, 0})), std::exception);
}

}  // namespace
}  // namespace osp
