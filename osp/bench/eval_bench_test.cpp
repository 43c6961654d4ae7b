#include "osp/bench/eval_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

Json peer_task(double seconds) { return {{"seconds", seconds}, {"items", 6}, {"batch_size", 4}}; }

const std::vector<EvalRuns>& three_pairs() {
  const auto run = [](const Json& tasks, double cpu_seconds) {
    return EvalRun{tasks, {{"cpu_seconds", cpu_seconds}, {"wall_seconds", 2 * cpu_seconds}}};
  };
  const auto ours = [&](double a, double b) {
    return run({{"a", {{"seconds", a}}}, {"b", {{"seconds", b}}}}, a);
  };
  const auto peer = [&](double a, double b) {
    return run({{"a", peer_task(a)}, {"b", peer_task(b)}}, b);
  };
  static const std::vector<EvalRuns> pairs = {
      {ours(1, 3), peer(2, 3)}, {ours(2, 2), peer(8, 4)}, {ours(3, 1), peer(9, 7)}};
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

TEST(EvalBench, ProcessesAreComparedWhole) {
  const Json summary = process_summary(three_pairs());
  EXPECT_EQ(summary["cpu_seconds"], (Json{{"osp", 2.0}, {"peer", 4.0}, {"ratio", 7.0 / 3}}));
  EXPECT_EQ(summary["wall_seconds"]["osp"], 4.0);
}

TEST(EvalBench, AllTasksTogetherAreSecondsOfAllTasks) {
  EXPECT_EQ(ratio_of_all_tasks(three_pairs()), 3);  // of 5/4, 12/4 and 16/4
  const Json tasks = {{"a", summarize_task("a", three_pairs())}};
  EXPECT_NE(items_per_s_table(tasks, 3).find("3.00 times"), std::string::npos);
}

}  // namespace
}  // namespace osp
