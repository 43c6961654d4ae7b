#include "osp/bench/quantize_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

const std::vector<QuantizeRun> kRuns = {
    {.samples = 2, .seconds = 1, .peak_memory_bytes = 5e8, .blocks = {0.25, 0.75}},
    {.samples = 4, .seconds = 2, .peak_memory_bytes = 1e9, .blocks = {0.5, 1.5, 0.7}}};
const Json kPeer = {
    {"seconds", 6.0}, {"peak_memory_bytes", 4e9}, {"versions", {{"gptqmodel", "1.2.3"}}}};

TEST(QuantizeBench, ThePeerIsComparedWithTheRunOnAllWindows) {
  const Json result = quantize_bench_json("model", kRuns, kPeer);
  EXPECT_EQ(result["runs"].size(), 2u);
  EXPECT_EQ(result["ratio"], 3);
  EXPECT_EQ(result["peak_memory_ratio"], 0.25);
  EXPECT_FALSE(quantize_bench_json("model", kRuns, nullptr).contains("ratio"));
}

TEST(QuantizeBench, TheTableHasTheMedianBlockAndThePeer) {
  const std::string table = quantize_bench_table(kRuns, kPeer);
  EXPECT_NE(table.find("0.50    0.70    1.50"), std::string::npos) << table;
  EXPECT_NE(table.find("GPTQModel 1.2.3: 6.0 s"), std::string::npos) << table;
  EXPECT_EQ(quantize_bench_table(kRuns, nullptr).find("GPTQModel"), std::string::npos);
}

}  // namespace
}  // namespace osp
