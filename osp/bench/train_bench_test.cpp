#include "osp/bench/train_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

Json run_of(double tokens_per_s, double peak_memory_bytes) {
  return {{"tokens_per_s", tokens_per_s},
          {"peak_memory_bytes", peak_memory_bytes},
          {"parameters", 1000},
          {"context", 64},
          {"model_flops_per_s", 3.0 * tokens_per_s},
          {"product_flops_per_s", 400.0}};
}

TEST(TrainBench, RatiosAreToTheFasterPeerOfEachRepetition) {
  const std::vector<TrainingRuns> repetitions = {
      {.ours = run_of(100, 1e6), .eager = run_of(50, 2e6), .compiled = run_of(25, 4e6)},
      {.ours = run_of(90, 1e6), .eager = run_of(10, 2e6), .compiled = run_of(30, 4e6)},
      {.ours = run_of(80, 1e6), .eager = run_of(20, 2e6), .compiled = run_of(20, 4e6)}};
  const Json result = summarize_training("demo", repetitions);
  EXPECT_EQ(result["tokens_per_s"], 90);
  EXPECT_EQ(result["peer_tokens_per_s"], 30);   // of 50, 30 and 20
  EXPECT_EQ(result["ratio"], 3);                // of 2, 3 and 4
  EXPECT_EQ(result["peak_memory_ratio"], 0.5);  // of 1/2, 1/4 and 1/2: eager wins a tie
  EXPECT_EQ(result["share_of_product_rate"], 0.675);
  EXPECT_EQ(result["eager_tokens_per_s"], 20);
  EXPECT_EQ(result["compiled_tokens_per_s"], 25);
}

TEST(TrainBench, WithoutTheCompiledPeerEagerIsThePeer) {
  const Json result =
      summarize_training("demo", {{.ours = run_of(100, 1e6), .eager = run_of(50, 2e6)}});
  EXPECT_EQ(result["ratio"], 2);
  EXPECT_FALSE(result.contains("compiled_tokens_per_s"));
  EXPECT_NE(training_table(Json::array({result})).find("demo"), std::string::npos);
}

TEST(TrainBench, TheProfileSumsUpWhatItDoesNotList) {
  TrainingSpeed speed;
  speed.step_seconds = 1;
  speed.operators = {{"aten::mm", 3, 0.75}, {"aten::add", 1, 0.0005}};
  const std::string table = profile_table(speed);
  EXPECT_NE(table.find("aten::mm"), std::string::npos);
  EXPECT_EQ(table.find("aten::add"), std::string::npos);
  EXPECT_NE(table.find("250.00"), std::string::npos) << table;
}

}  // namespace
}  // namespace osp
