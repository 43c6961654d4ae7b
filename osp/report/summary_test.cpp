#include "osp/report/summary.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

RunData make_run(const std::string& name, double rate, double kurtosis, double full, double four) {
  RunData run;
  run.name = run.key = run.label = name;
  run.tokens = 3072000;
  run.learning_rate.add(0, rate / 2);
  run.learning_rate.add(1, rate);
  run.validation_loss.add(1, 3.25);
  run.last_validation.kurtosis = kurtosis;
  run.last_validation.largest.value = 1792;
  const Measurement at{.text = "wiki", .tokens = 1000, .window = 256, .stride = 256};
  run.evaluation = {{.bits = kFullBits, .perplexity = full, .at = at},
                    {.bits = kFourBits, .perplexity = four, .at = at}};
  return run;
}

TEST(SummaryTable, MarkdownHasTheColumnsOfTheDemo) {
  const std::string text = to_markdown(summary_table({make_run("adam", 3e-3, 8.5, 28.4, 29.0)}));
  EXPECT_EQ(
      text,
      "|      |    tokens |  loss | excess kurtosis | largest |                    measured on "
      "| PPL 16-16-16 | PPL 4-4-4 (RTN) | damage |\n"
      "|------|----------:|------:|----------------:|--------:|-------------------------------:"
      "|-------------:|----------------:|-------:|\n"
      "| adam | 3,072,000 | 3.250 |            8.50 |   1,792 | wiki, 1,000 tokens, window 256 "
      "|        28.40 |           29.00 | +2.1 % |\n");
}

TEST(SummaryTable, MissingNumbersAreDashesAndNull) {
  RunData run = make_run("adam", 3e-3, 8.5, 28.4, 29.0);
  run.evaluation.clear();
  run.validation_loss = {};
  EXPECT_EQ(summary_table({run}).rows[0][2], "–");
  EXPECT_EQ(summary_table({run}).rows[0][8], "–");
  EXPECT_TRUE(summary_json({run})["adam"]["loss"].is_null());
  EXPECT_EQ(summary_json({run})["adam"]["perplexity"], Json::object());
}

TEST(Headline, SaysWhenOspIsNotBetter) {
  std::vector<RunData> runs = {make_run("first", 3e-3, 2.4, 16, 16.5),
                               make_run("second", 1e-3, 0.2, 15, 15.5),
                               make_run("third", 3e-3, 0.6, 16.7, 17.5)};
  runs[0].recipe = runs[1].recipe = {{"optim", {{"name", "adam"}}}, {"model", {{"norm", "rms"}}}};
  runs[2].recipe = {{"optim", {{"name", "osp"}}},
                    {"model", {{"norm", "single-scale"}, {"embedding_projection", true}}}};
  const std::string text = headline(runs);
  EXPECT_NE(text.find("fewer outliers, but not none"), std::string::npos) << text;
  EXPECT_NE(text.find("not better than the 15.50"), std::string::npos) << text;
}

TEST(Headline, RunsWithoutAnOutlierSafeRecipeAreOnlyOrderedWhateverTheirNames) {
  EXPECT_EQ(
      headline({make_run("osp", 1, 3, 1, 1), make_run("b", 1, -1, 1, 1)}),
      "Of 2 runs, “b” has the smallest excess kurtosis (−1.00) and “osp” the largest (3.00).");
}

TEST(Numbers, HaveMinusSignsAndZeroHasNone) {
  EXPECT_EQ(format_fixed(-0.001, 2), "0.00");
  EXPECT_EQ(format_fixed(-1.5, 2), "−1.50");
  EXPECT_EQ(format_number(-12345), "−12,345");
  EXPECT_EQ(format_number(2.5e-7), "2.5e−07");
  EXPECT_EQ(format_damage(20, 19), "−5.0 %");
}

}  // namespace
}  // namespace osp
