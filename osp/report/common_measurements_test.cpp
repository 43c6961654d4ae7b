#include "osp/report/common_measurements.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "osp/report/claims.h"
#include "osp/report/seed_groups.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

RunData reported(const std::string& label, const char* optimizer, const std::string& text) {
  const bool osp = std::string(optimizer) == "osp";
  RunData run;
  run.name = run.key = run.label = label;
  run.path = "runs/" + label;
  run.recipe = {{"optim", {{"name", optimizer}}},
                {"model", {{"norm", osp ? "single-scale" : "rms"}, {"embedding_projection", osp}}}};
  run.cost.bits = kFourBits;
  run.cost.at = {.text = text, .tokens = 8128, .window = 128, .stride = 128, .file = label};
  run.cost.tax = osp ? 0.0 : 0.01;
  run.cost.share = osp ? 0.0 : 0.3;
  run.cost.own_added_nats = osp ? 0.02 : 0.03;
  return run;
}

void add_average(RunData& run, double average, double error, const std::string& settings) {
  EvalResult result{.bits = kFourBits, .average = average};
  result.at = {.text = "bench", .settings = settings, .file = run.name, .benchmarks = true};
  for (const char* task : {"piqa", "siqa"}) {
    TaskResult& score = result.tasks.emplace_back();
    score.task = task;
    score.value = average;
    score.standard_error = error;
  }
  run.evaluation.push_back(result);
}

Claim judged(const std::vector<RunData>& runs, const std::string& beginning) {
  for (const Claim& claim : judge_claims(runs)) {
    if (claim.says.starts_with(beginning)) return claim;
  }
  ADD_FAILURE() << "no claim begins with " << beginning;
  return {};
}

TEST(CommonMeasurements, CostsOfOtherTextsOrBitsAreNotHeldAgainstEachOther) {
  const std::string says = "With a Hadamard in front";
  std::vector<RunData> runs = {reported("a", "adam", "wiki"), reported("o", "osp", "wiki")};
  const Claim shown = judged(runs, says);
  EXPECT_EQ(shown.state, ClaimState::shown);
  EXPECT_EQ(shown.found, "OSP +2.0 %; Adam +3.0 % (wiki, 8,128 tokens, window 128)");
  runs[1].cost.at.text = "c4";
  EXPECT_EQ(judged(runs, says).state, ClaimState::not_measured);
  runs[1].cost.at.text = "wiki";
  runs[1].cost.at.window = 256;
  EXPECT_EQ(judged(runs, says).state, ClaimState::not_measured);
  runs[1].cost.at.window = 128;
  runs[1].cost.bits = "4-8-8";
  EXPECT_EQ(judged(runs, says).state, ClaimState::not_measured);
}

TEST(CommonMeasurements, AveragesAreComparedOnTheSameItemsAndBeyondTheirErrors) {
  const std::string says = "At four bits OSP scores higher";
  const auto state = [&](double osp, double error, const std::string& settings) {
    std::vector<RunData> runs = {reported("a", "adam", "wiki"), reported("o", "osp", "wiki")};
    add_average(runs[0], 0.30, 0.01, "; lm-eval; first 0");
    add_average(runs[1], osp, error, settings);
    return judged(runs, says);
  };
  // The error of an average of two: sqrt(2) / 2 of that of a task, so 0.01 of their difference.
  EXPECT_EQ(state(0.33, 0.01, "; lm-eval; first 0").state, ClaimState::shown);
  EXPECT_EQ(state(0.315, 0.01, "; lm-eval; first 0").state, ClaimState::not_shown);
  EXPECT_EQ(state(0.33, 0.05, "; lm-eval; first 0").state, ClaimState::not_shown);
  EXPECT_EQ(state(0.33, 0.01, "; lm-eval; first 100").state, ClaimState::not_measured);
  EXPECT_NE(state(0.33, 0.01, "; lm-eval; first 0").found.find("OSP 33.0 % ± 0.7 %"),
            std::string::npos);
}

TEST(CommonMeasurements, NotesSayWhatWasMeasuredOnWhat) {
  std::vector<RunData> runs = {reported("a", "adam", "wiki"), reported("o", "osp", "wiki")};
  for (RunData& run : runs) {
    run.last_validation.kurtosis = 1;
    run.last_validation.at.text = "the held-out text of its training";
  }
  EXPECT_EQ(measurement_notes(runs),
            (std::vector<std::string>{
                "Excess kurtosis and largest activation: on the held-out text of its training.",
                "Outlier tax, and what is measured with it: on wiki, 8,128 tokens, window 128, at "
                "4-4-4."}));
  runs[1].cost.at.text = "c4";
  EXPECT_EQ(measurement_notes(runs)[1],
            "Outlier tax, and what is measured with it: of a on wiki, 8,128 tokens, window 128, at "
            "4-4-4; of o on c4, 8,128 tokens, window 128, at 4-4-4.");
  EXPECT_TRUE(measurement_notes({RunData{}}).empty());
}

TEST(CommonMeasurements, SeedsAreJoinedWithTheirSpread) {
  std::vector<RunData> runs;
  for (const double tax : {0.01, 0.02, 0.03}) {
    runs.push_back(reported("a" + std::to_string(runs.size()), "adam", "wiki"));
    runs.back().recipe["run"]["seed"] = runs.size();
    runs.back().cost.tax = tax;
    runs.back().cost.error = 1e-5;  // over rotations
    runs.back().cost.bases = {{"own basis", 1.0, tax}};
    runs.back().cost.sites = {{"weights", tax, 2 * tax}};
  }
  RunData joined = join_seeds(runs).at(0);
  EXPECT_EQ(joined.label, "Adam (3 seeds)");
  EXPECT_DOUBLE_EQ(joined.cost.tax, 0.02);
  EXPECT_NEAR(joined.cost.error, 0.01, 1e-12);
  EXPECT_DOUBLE_EQ(joined.cost.bases.at(0).divergence, 0.02);
  EXPECT_DOUBLE_EQ(joined.cost.sites.at(0).without, 0.04);
  // One seed twice is no third one; other bases have no mean; another text has no tax.
  runs[2].recipe["run"]["seed"] = 2;
  runs[2].cost.bases[0].name = "principal axes";
  joined = join_seeds(runs).at(0);
  EXPECT_EQ(joined.label, "Adam (3 runs of 2 seeds)");
  EXPECT_TRUE(joined.cost.bases.empty());
  runs[2].cost.at.text = "c4";
  EXPECT_FALSE(std::isfinite(join_seeds(runs).at(0).cost.tax));
}

TEST(CommonMeasurements, SeedsOnOtherTextsHaveNoMeans) {
  std::vector<RunData> runs = {reported("a", "adam", "wiki"), reported("b", "adam", "wiki")};
  for (size_t i = 0; i < runs.size(); ++i) {
    runs[i].recipe["run"]["seed"] = i;
    runs[i].last_validation.kurtosis = 1 + 2 * static_cast<double>(i);
    runs[i].last_validation.at.text = "held out";
    runs[i].cost.sites = {{"weights", 1, 2}};
    add_average(runs[i], 0.3, 0.01, "");
    runs[i].evaluation[0].at.file = "";
    runs[i].evaluation[0].perplexity = 10 + static_cast<double>(i);
  }
  RunData joined = join_seeds(runs).at(0);
  EXPECT_DOUBLE_EQ(joined.last_validation.kurtosis, 2);
  EXPECT_EQ(joined.cost.sites.size(), 1u);
  EXPECT_EQ(joined.evaluation.at(0).of_seeds, (std::vector<double>{10, 11}));
  runs[1].last_validation.at.text = "another";
  runs[1].cost.sites_at.tokens = 64;
  joined = join_seeds(runs).at(0);
  EXPECT_FALSE(std::isfinite(joined.last_validation.kurtosis));
  EXPECT_TRUE(joined.cost.sites.empty());
  // A cell of the table that no joined cost stands behind is empty.
  const auto hadamard = [&] {
    const HtmlTable table = summary_table(runs, true);
    const auto column = std::find(table.header.begin(), table.header.end(), "with FFN Hadamard");
    return table.rows.at(0).at(static_cast<size_t>(column - table.header.begin()));
  };
  EXPECT_EQ(hadamard(), "+3.0 %");
  runs[1].cost.at.text = "c4";
  EXPECT_EQ(hadamard(), "–");
}

TEST(CommonMeasurements, ANumberWithoutItsErrorIsNotMeasured) {
  std::vector<RunData> runs = {reported("a", "adam", "wiki"), reported("o", "osp", "wiki")};
  add_average(runs[0], 0.30, 0.01, "");
  add_average(runs[1], 0.90, std::nan(""), "");
  const Claim claim = judged(runs, "At four bits OSP scores higher");
  EXPECT_EQ(claim.state, ClaimState::not_measured);
  EXPECT_NE(claim.found.find("OSP: not measured on the same"), std::string::npos) << claim.found;
}

TEST(CommonMeasurements, SubjectsOfSeedsAreMeans) {
  std::vector<RunData> runs = {reported("a", "adam", "wiki"), reported("b", "adam", "wiki")};
  for (size_t i = 0; i < runs.size(); ++i) {
    runs[i].recipe["run"]["seed"] = i;
    add_average(runs[i], 0.3, 0.01, "");
    runs[i].evaluation[0].at.file = "";
    runs[i].evaluation[0].tasks[0].subjects = {{"law", 10, 0.2 + 0.2 * static_cast<double>(i)}};
  }
  const auto subjects = [&] { return join_seeds(runs).at(0).evaluation.at(0).tasks[0].subjects; };
  EXPECT_DOUBLE_EQ(subjects().at(0).score, 0.3);
  runs[1].evaluation[0].tasks[0].subjects[0].name = "art";
  EXPECT_TRUE(subjects().empty());
}

}  // namespace
}  // namespace osp
