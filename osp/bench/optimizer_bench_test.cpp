#include "osp/bench/optimizer_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

Json group_run(double seconds) {
  return {{"group", "muon"},        {"kind", "muon"},
          {"banks", {{2, 4, 8}}},   {"parameters", 64},
          {"bytes", 512},           {"seconds", seconds},
          {"formula_bytes", 448.0}, {"cpu_seconds", 2 * seconds}};
}

Json peer_run(double seconds) {
  return {{"seconds", seconds},     {"cpu_seconds", seconds},      {"bytes", 1024},
          {"startup_seconds", 3.0}, {"peak_memory_bytes", 1000.0}, {"error", 0.5}};
}

Json timed(const std::string& name, double step_seconds) {
  return {{"optimizer", name}, {"step_seconds", step_seconds}};
}

TEST(OptimizerBench, AGroupsRatiosAreMediansOverPairs) {
  const GroupRuns runs{.ours = {group_run(1), group_run(10), group_run(2)},
                       .peers = {{"torch-muon", {peer_run(3), peer_run(20), peer_run(2)}}}};
  const Json json = summarize_group(runs);
  EXPECT_EQ(json["seconds"], 2);
  EXPECT_EQ(json["cpu_seconds"], 4);
  EXPECT_EQ(json["bytes_per_parameter"], 8);
  EXPECT_EQ(json["formula_bytes_per_parameter"], 7);
  const Json& peer = json["peers"][0];
  EXPECT_EQ(peer["ratios"], (std::vector<double>{3, 2, 1}));
  EXPECT_EQ(peer["ratio"], 2);
  EXPECT_EQ(peer["cpu_ratio"], 1);
  EXPECT_EQ(peer["bytes_per_parameter"], 16);
  EXPECT_EQ(peer["error"], 0.5);
  EXPECT_FALSE(peer.contains("largest_difference"));
}

TEST(OptimizerBench, AnOptimizersStepIsTheSumOfItsGroups) {
  const std::vector<GroupRuns> groups = {{.ours = {group_run(1)}, .peers = {}},
                                         {.ours = {group_run(2)}, .peers = {}}};
  const Json json =
      summarize_optimizer("osp", groups, {{{"startup_seconds", 1.0}, {"peak_memory_bytes", 5.0}}});
  EXPECT_EQ(json["step_seconds"], 3);
  EXPECT_EQ(json["bytes_per_parameter"], 8);
  EXPECT_EQ(json["formula_bytes_per_parameter"], 7);
  EXPECT_EQ(json["groups"].size(), 2u);
  EXPECT_NE(group_table(Json::array({json})).find("osp"), std::string::npos);
}

TEST(OptimizerBench, ThroughputAddsTheStepToThePassesOfEachOptimizer) {
  Json optimizers = Json::array({timed("kfac", 2), timed("adam", 1)});
  add_throughput(optimizers, 100, {{"kfac", 0.03}, {"adam", 0.01}});
  EXPECT_EQ(optimizers[0]["tokens_per_s"], 100 / (100 * 0.03 + 2));
  EXPECT_EQ(optimizers[1]["tokens_per_s"], 50);
  EXPECT_EQ(optimizers[0]["relative_throughput"], 0.4);
  EXPECT_EQ(optimizers[1]["relative_throughput"], 1);
  Json alone = Json::array({timed("kfac", 2)});
  add_throughput(alone, 100, {{"kfac", 0.03}});
  EXPECT_FALSE(alone[0].contains("relative_throughput")) << "there is no Adam to compare with";
}

TEST(OptimizerBench, TheOverheadFallsWithTheTokensOfAStep) {
  Json optimizers = Json::array({timed("osp", 3), timed("adam", 1)});
  EXPECT_TRUE(overhead_curve(Json::array({timed("osp", 3)}), 256).empty());
  add_throughput(optimizers, 8192, {{"osp", 0.001}, {"adam", 0.001}});
  const Json curve = overhead_curve(optimizers, 256);
  EXPECT_EQ(curve[0]["batch_tokens"], 8192);
  EXPECT_EQ(curve[0]["overhead"], 2 / (8192 * 0.001 + 1));
  EXPECT_EQ(curve[0]["model"], 5.0 * 256 / 8192);
  EXPECT_LT(curve[1]["overhead"], curve[0]["overhead"]);
}

}  // namespace
}  // namespace osp
