#include "osp/bench/eval_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

Json peer_task(double seconds) { return {{"seconds", seconds}, {"items", 6}, {"batch_size", 4}}; }

const std::vector<EvalRuns>& three_pairs() {
  static const std::vector<EvalRuns> pairs = {
      {{{"a", {{"seconds", 1.0}}}, {"b", {{"seconds", 3.0}}}},
       {{"a", peer_task(2)}, {"b", peer_task(3)}}},
      {{{"a", {{"seconds", 2.0}}}, {"b", {{"seconds", 2.0}}}},
       {{"a", peer_task(8)}, {"b", peer_task(4)}}},
      {{{"a", {{"seconds", 3.0}}}, {"b", {{"seconds", 1.0}}}},
       {{"a", peer_task(9)}, {"b", peer_task(7)}}}};
  return pairs;
}

TEST(EvalBench, ATasksRatioIsTheMedianOfThePairs) {
  const Json a = summarize_task("a", three_pairs());
  EXPECT_EQ(a["ratios"], (std::vector<double>{2, 4, 3}));
  EXPECT_EQ(a["ratio"], 3);
  EXPECT_EQ(a["items_per_s"], 3);           // 6 items in 2 seconds
  EXPECT_EQ(a["peer_items_per_s"], 0.75);   // 6 items in 8 seconds
  EXPECT_FALSE(a.contains("equal_texts"));  // the task has none
}

TEST(EvalBench, AllTasksTogetherAreSecondsOfAllTasks) {
  EXPECT_EQ(ratio_of_all_tasks(three_pairs()), 3);  // of 5/4, 12/4 and 16/4
  const Json tasks = {{"a", summarize_task("a", three_pairs())}};
  EXPECT_NE(items_per_s_table(tasks, 3).find("3.00 times"), std::string::npos);
}

}  // namespace
}  // namespace osp
