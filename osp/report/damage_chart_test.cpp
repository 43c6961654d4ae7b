#include "osp/report/damage_chart.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(DamageChart, EverySeedIsHeldAgainstItsOwnModel) {
  RunData run;
  run.label = "Adam (2 seeds)";
  const Measurement at{.text = "wiki", .tokens = 1000, .window = 256, .stride = 256};
  run.quantized = {
      {.method = "gptq", .bits = "4-4-4", .perplexity_16 = 10, .perplexity = 11, .at = at},
      {.method = "gptq", .bits = "4-4-4", .perplexity_16 = 20, .perplexity = 24, .at = at}};
  const std::vector<Chart> charts = damage_charts({run});
  ASSERT_EQ(charts.size(), 1u);
  ASSERT_EQ(charts[0].table.rows.size(), 1u);
  EXPECT_EQ(charts[0].table.rows[0],
            (std::vector<std::string>{run.label, "wiki, 1,000 tokens, window 256", "gptq, 4-4-4",
                                      "15", "17.5", "+15.0 %"}));
  EXPECT_NEAR(charts[0].traces[0]["y"][0].get<double>(), 15.0, 1e-9);
}

TEST(DamageChart, SoIsRoundingToNearestOfSeedsThatAreJoined) {
  RunData run;
  run.label = "Adam (2 seeds)";
  const Measurement at{.text = "wiki", .tokens = 1000, .window = 256, .stride = 256};
  EvalResult full{.bits = kFullBits, .perplexity = 15, .at = at};
  EvalResult four{.bits = kFourBits, .perplexity = 17.5, .at = at};
  full.of_seeds = {10, 20};
  four.of_seeds = {11, 24};
  run.evaluation = {full, four};
  EXPECT_NEAR(damage_charts({run}).at(0).traces[0]["y"][0].get<double>(), 15.0, 1e-9);
}

}  // namespace
}  // namespace osp
