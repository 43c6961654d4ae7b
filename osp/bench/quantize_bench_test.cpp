#include "osp/bench/quantize_bench.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

const std::vector<QuantizeRun> kRuns = {
    {.windows = 2, .seconds = 1, .peak_memory_bytes = 5e8, .blocks = {0.25, 0.75}},
    {.windows = 4, .seconds = 2, .peak_memory_bytes = 1e9, .blocks = {0.5, 1.5, 0.7}}};
const Json kPeer = {
    {"seconds", 6.0}, {"peak_memory_bytes", 4e9}, {"versions", {{"gptqmodel", "1.2.3"}}}};

const std::vector<QuantizeComparison> kBoth = {{.precision = "fp32", .runs = kRuns, .peer = kPeer},
                                               {.precision = "bf16", .runs = kRuns, .peer = kPeer}};
const std::vector<QuantizeComparison> kAlone = {
    {.precision = "fp32", .runs = kRuns, .peer = nullptr}};

TEST(QuantizeBench, ThePeerIsComparedWithTheRunOnAllWindowsAtTheSamePrecision) {
  const Json result = quantize_bench_json("model", kBoth)["comparisons"];
  ASSERT_EQ(result.size(), 2u);
  for (const Json& compared : result) {
    EXPECT_EQ(compared["runs"].size(), 2u);
    EXPECT_EQ(compared["ratio"], 3);
    EXPECT_EQ(compared["peak_memory_ratio"], 0.25);
  }
  EXPECT_EQ(result[1]["precision"], "bf16");
  EXPECT_FALSE(quantize_bench_json("model", kAlone)["comparisons"][0].contains("ratio"));
  EXPECT_EQ(compared_precisions({}), (std::vector<std::string>{"fp32", "bf16"}));
  QuantizeBench one;
  one.calibration_type = "bf16";
  EXPECT_EQ(compared_precisions(one), std::vector<std::string>{"bf16"});
}

TEST(QuantizeBench, TheTableHasTheMedianBlockAndThePeer) {
  const std::string table = quantize_bench_table(kBoth);
  EXPECT_NE(table.find("0.50    0.70    1.50"), std::string::npos) << table;
  EXPECT_NE(table.find("GPTQModel 1.2.3 in bf16: 6.0 s"), std::string::npos) << table;
  EXPECT_EQ(quantize_bench_table(kAlone).find("GPTQModel"), std::string::npos);
}

}  // namespace
}  // namespace osp
