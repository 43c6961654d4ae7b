#include "osp/bench/train_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

Json run_of(double tokens_per_s, double peak_memory_bytes) {
  return {{"tokens_per_s", tokens_per_s},
          {"peak_memory_bytes", peak_memory_bytes},
          {"cpu_seconds", 1.0 / tokens_per_s},
          {"page_faults", 7},
          {"versions", {{"torch", "2"}}},
          {"parameters", 1000},
          {"context", 64},
          {"model_flops_per_s", 3.0 * tokens_per_s},
          {"product_flops_per_s", 400.0}};
}

TEST(TrainBench, RatiosAreThoseOfEachRepetition) {
  const std::vector<TrainingRuns> repetitions = {{run_of(100, 1e6), run_of(50, 2e6)},
                                                 {run_of(90, 1e6), run_of(30, 4e6)},
                                                 {run_of(80, 1e6), run_of(20, 2e6)}};
  TunedTrainingPeer tuned;
  tuned.peer.mode = "compile";
  const Json result = summarize_training({.model = "demo"}, tuned, repetitions);
  EXPECT_EQ(result["tokens_per_s"], 90);
  EXPECT_EQ(result["peer_tokens_per_s"], 30);
  EXPECT_EQ(result["ratio"], 3);                // of 2, 3 and 4
  EXPECT_EQ(result["peak_memory_ratio"], 0.5);  // of 1/2, 1/4 and 1/2
  EXPECT_EQ(result["cpu_ratio"], 3);            // the peer's over ours
  EXPECT_EQ(result["share_of_product_rate"], 0.675);
  EXPECT_EQ(result["peer"]["mode"], "compile");
  EXPECT_NE(training_table(Json::array({result})).find("PyTorch, compile"), std::string::npos);
}

TEST(TrainBench, TheFastestWayToRunThePeerIsFound) {
  const auto& settings = all_peer_settings();
  const auto rate = [&](const TrainingPeer& peer) {
    return (peer.settings.name == settings[1].name ? 10.0 : 5.0) +
           (peer.mode == "compile" ? 4.0 : 0.0) + (peer.micro_batches == 2 ? 1.0 : 0.0);
  };
  const TunedTrainingPeer tuned =
      tune_training_peer({"eager", "compile", "max-autotune"}, 32, rate);
  EXPECT_EQ(tuned.peer.text(), "compile; " + settings[1].name + "; 2 micro-batches");
  ASSERT_EQ(tuned.trials.size(), settings.size() + 4);
  EXPECT_EQ(tuned.trials[0]["tokens_per_s"], 5);
  EXPECT_EQ(tuned.trials.back()["micro_batches"], 4);
  // One mode alone; an odd number of sequences stays whole.
  const TunedTrainingPeer eager = tune_training_peer({"eager"}, 1, rate);
  EXPECT_EQ(eager.trials.size(), settings.size());
  EXPECT_EQ(eager.peer.mode, "eager");
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
