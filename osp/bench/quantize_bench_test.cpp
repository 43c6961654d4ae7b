#include "osp/bench/quantize_bench.h"

#include <gtest/gtest.h>

#include "osp/bench/child.h"

namespace osp {
namespace {

QuantizeRun our_run(int64_t windows, double seconds) {
  return {.windows = windows,
          .seconds = seconds,
          .peak_memory_bytes = 1e9,
          .blocks = {0.5, 1.5, 0.7},
          .cpu_seconds = 2 * seconds};
}

Json gptqmodel_run(double seconds) {
  return {{"seconds", seconds},
          {"peak_memory_bytes", 4e9},
          {"versions", {{"gptqmodel", "1.2.3"}}},
          {kProcess, {{"cpu_seconds", 4 * seconds}}}};
}

// A run on half of the windows, and three pairs on all: 3, 5 and 4 times as fast.
QuantizeComparison compared(const std::string& precision) {
  return {.precision = precision,
          .runs = {our_run(2, 1), our_run(4, 2), our_run(4, 2), our_run(4, 1)},
          .peers = {gptqmodel_run(6), gptqmodel_run(10), gptqmodel_run(4)}};
}

const std::vector<QuantizeComparison> kBoth = {compared("fp32"), compared("bf16")};
const std::vector<QuantizeComparison> kAlone = {{.precision = "fp32", .runs = {our_run(4, 2)}}};

TEST(QuantizeBench, ThePeerIsComparedWithTheRunsOnAllWindowsAtTheSamePrecision) {
  const Json result = quantize_bench_json("model", kBoth)["comparisons"];
  ASSERT_EQ(result.size(), 2u);
  for (const Json& compared : result) {
    EXPECT_EQ(compared["runs"].size(), 4u);
    EXPECT_EQ(compared["ratios"], (std::vector<double>{3, 5, 4}));
    EXPECT_EQ(compared["ratio"], 4);
    EXPECT_EQ(compared["peak_memory_ratio"], 0.25);
    EXPECT_EQ(compared["cpu_ratio"], 0.125);
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
  EXPECT_NE(table.find("GPTQModel 1.2.3 in bf16: 4.0 s"), std::string::npos) << table;
  EXPECT_EQ(quantize_bench_table(kAlone).find("GPTQModel"), std::string::npos);
}

}  // namespace
}  // namespace osp
