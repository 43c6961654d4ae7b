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

std::vector<bool> claims_of(const std::vector<RunData>& runs) {
  std::vector<bool> held;
  for (const Claim& claim : verdict(runs).claims) held.push_back(claim.holds);
  return held;
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

TEST(Verdict, HoldsForTheNumbersOfTheTrials) {
  EXPECT_EQ(claims_of({make_run("adam", 3e-3, 8.5, 28.4, 29.0),
                       make_run("adam-best", 1e-3, 0.79, 23.1, 23.9),
                       make_run("osp", 3e-3, -0.05, 16.7, 17.5)}),
            (std::vector<bool>{true, true, true, true}));
}

TEST(Verdict, SaysWhenItDoesNotHold) {
  const std::vector<RunData> runs = {make_run("adam", 3e-3, 2.4, 16, 16.5),
                                     make_run("adam-best", 1e-3, 0.2, 15, 15.5),
                                     make_run("osp", 3e-3, 0.6, 16.7, 17.5)};
  EXPECT_EQ(claims_of(runs), (std::vector<bool>{false, false, false, false}));
  const std::string headline = verdict(runs).headline;
  EXPECT_NE(headline.find("fewer outliers, but not none"), std::string::npos) << headline;
  EXPECT_NE(headline.find("not better than the 15.50"), std::string::npos) << headline;
}

TEST(Verdict, NumbersThatAreMissingNeverCountAsShown) {
  std::vector<RunData> runs = {make_run("adam", 3e-3, std::nan(""), 28.4, 29.0),
                               make_run("osp", 3e-3, -0.05, 16.7, 17.5)};
  runs[0].evaluation.clear();
  EXPECT_EQ(claims_of(runs), (std::vector<bool>{false, true, false}));
}

TEST(Verdict, RunsWithoutAnOutlierSafeOneAreOnlyOrdered) {
  const Verdict result = verdict({make_run("a", 1, 3, 1, 1), make_run("b", 1, -1, 1, 1)});
  EXPECT_TRUE(result.claims.empty());
  EXPECT_EQ(result.headline,
            "Of 2 runs, “b” has the smallest excess kurtosis (−1.00) and “a” the largest (3.00).");
}

}  // namespace
}  // namespace osp
