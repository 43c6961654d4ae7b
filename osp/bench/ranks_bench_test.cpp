#include "osp/bench/ranks_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

Json rank_of(double seconds, double memory, const Json& sent) {
  return {{"step_seconds", seconds},
          {"cpu_seconds", 2 * seconds},
          {"sent_bytes", sent},
          {"peak_memory_bytes", memory},
          {"loss", 7.5}};
}

Json run_of(double seconds, double memory, const Json& sent) {
  return joined_ranks({{"ranks", {rank_of(seconds, memory, sent)}}});
}

TEST(RanksBench, RanksAreAsSlowAsTheSlowestAndUseWhatAllUse) {
  const Json run = joined_ranks({{"ranks", {rank_of(0.25, 3e9, 100), rank_of(0.5, 2e9, 20)}}});
  EXPECT_EQ(run["step_seconds"], 0.5);
  EXPECT_EQ(run["steps_per_s"], 2);
  EXPECT_EQ(run["cpu_seconds"], 1.5);
  EXPECT_EQ(run["sent_bytes"], 120);
  EXPECT_EQ(run["peak_memory_bytes"], 3e9);
  // Bytes that one rank does not know nobody knows.
  const Json shared = joined_ranks({{"ranks", {rank_of(1, 1, 100), rank_of(1, 1, Json())}}});
  EXPECT_TRUE(shared["sent_bytes"].is_null());
}

TEST(RanksBench, RatiosAreToTheFastestPeerPairByPair) {
  const RanksRuns ours{"osp, exact",
                       {run_of(0.5, 1e9, 40), run_of(0.25, 1e9, 40), run_of(1, 1e9, 40)}};
  const RanksRuns slow{"ddp", {run_of(4, 1e9, 10), run_of(4, 1e9, 10), run_of(4, 1e9, 10)}};
  const RanksRuns fast{"fsdp2", {run_of(1, 4e9, 80), run_of(1, 2e9, 80), run_of(1, 2e9, 80)}};
  const Json result = summarize_ranks("200mbit", {ours}, {slow, fast});
  EXPECT_EQ(result["rate"], "200mbit");
  EXPECT_EQ(result["fastest_peer"], "fsdp2");
  const Json& ratios = result["osp"][0]["ratios"];
  EXPECT_EQ(ratios["steps"], 2);  // of 2, 4 and 1
  EXPECT_EQ(ratios["cpu_seconds"], 0.5);
  EXPECT_EQ(ratios["sent_bytes"], 0.5);
  EXPECT_EQ(ratios["peak_memory_bytes"], 0.5);
  const std::string table = ranks_table(Json::array({result}));
  EXPECT_NE(table.find("fsdp2 (fastest)"), std::string::npos);
  EXPECT_NE(table.find("200mbit    osp, exact"), std::string::npos);
}

TEST(RanksBench, ThePeerIsTunedBySettingsAndThenCompiled) {
  const auto& settings = all_peer_settings();
  Json trials = Json::array();
  const auto measure = [&](const RanksPeer& peer) {
    return (peer.settings.name == settings[2].name ? 2.0 : 1.0) +
           (peer.mode == "compile" ? 0.5 : 0.0);
  };
  const RanksPeer best = tune_ranks_peer(measure, trials);
  EXPECT_EQ(best.settings.name, settings[2].name);
  EXPECT_EQ(best.mode, "compile");
  ASSERT_EQ(trials.size(), settings.size() + 1);
  EXPECT_EQ(trials.back()["steps_per_s"], 2.5);
}

}  // namespace
}  // namespace osp
