#include "osp/report/claims.h"

#include <gtest/gtest.h>

#include <cmath>

#include "osp/report/recipe_kind.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

Json recipe(const char* optimizer, const char* norm, bool projection) {
  return {{"optim", {{"name", optimizer}}},
          {"model", {{"norm", norm}, {"embedding_projection", projection}}}};
}

RunData trained(const Json& recipe, double rate, double kurtosis, double full, double four) {
  RunData run;
  run.name = run.key = run.label = "osp-by-name-only";
  run.recipe = recipe;
  run.learning_rate.add(1, rate);
  run.last_validation.kurtosis = kurtosis;
  const Measurement at{.text = "wiki", .tokens = 1000, .window = 256, .stride = 256};
  run.evaluation = {{.bits = kFullBits, .perplexity = full, .at = at},
                    {.bits = kFourBits, .perplexity = four, .at = at}};
  return run;
}

Claim claim_of(const std::vector<RunData>& runs, const std::string& beginning) {
  for (const Claim& claim : judge_claims(runs)) {
    if (claim.says.starts_with(beginning)) return claim;
  }
  ADD_FAILURE() << "no claim begins with " << beginning;
  return {};
}

const Json kAdam = recipe("adam", "rms", false);
const Json kOsp = recipe("osp", "single-scale", true);

TEST(Claims, DamageIsJudgedAndFailsThoughThePerplexityIsLower) {
  const std::vector<RunData> runs = {trained(kAdam, 3e-3, 8.5, 28.0, 28.5),
                                     trained(kOsp, 3e-3, 0.01, 16.0, 17.5)};
  const Claim damage = claim_of(runs, "Four bits damage");
  EXPECT_EQ(damage.state, ClaimState::not_shown);
  EXPECT_EQ(damage.found, "OSP +9.4 %; Adam +1.8 % (wiki, 1,000 tokens, window 256)");
  EXPECT_EQ(claim_of(runs, "At four bits OSP predicts").state, ClaimState::shown);
  EXPECT_EQ(claim_of(runs, "A model trained with OSP has no").state, ClaimState::shown);
  EXPECT_EQ(claim_of(runs, "A model trained with Adam has").state, ClaimState::shown);
  EXPECT_EQ(claim_of(runs, "Muon alone").state, ClaimState::not_measured);
}

TEST(Claims, OneModelOfSeveralIsEnoughToFail) {
  std::vector<RunData> runs = {trained(kAdam, 3e-3, 8.5, 28.0, 38.5),
                               trained(kAdam, 3e-3, 8.5, 28.0, 28.1),
                               trained(kOsp, 3e-3, 0.01, 16.0, 17.5)};
  EXPECT_EQ(claim_of(runs, "Four bits damage").state, ClaimState::not_shown);
  runs.erase(runs.begin() + 1);
  EXPECT_EQ(claim_of(runs, "Four bits damage").state, ClaimState::shown);
}

TEST(Claims, PerplexitiesOfOtherTextsAreNotCompared) {
  std::vector<RunData> runs = {trained(kAdam, 3e-3, 8.5, 28.0, 38.5),
                               trained(kOsp, 3e-3, 0.01, 16.0, 17.5)};
  for (EvalResult& result : runs[1].evaluation) result.at.tokens = 7;
  EXPECT_EQ(claim_of(runs, "Four bits damage").state, ClaimState::not_measured);
}

TEST(Claims, MissingNumbersNeverCountAsShown) {
  const std::vector<RunData> runs = {trained(kAdam, 3e-3, std::nan(""), 28.0, 38.5),
                                     trained(kOsp, 3e-3, 0.01, 16.0, 17.5)};
  const Claim claim = claim_of(runs, "A model trained with Adam has");
  EXPECT_EQ(claim.state, ClaimState::not_measured);
  EXPECT_EQ(claim.found, "OSP 0.01; Adam: not measured");
}

TEST(Claims, TheSameLearningRateIsDemandedWhereTheClaimSaysSo) {
  std::vector<RunData> runs = {trained(kAdam, 3e-3, 8.5, 28.0, 38.5),
                               trained(kOsp, 1e-3, 0.01, 16.0, 17.5)};
  EXPECT_EQ(claim_of(runs, "Adam's outliers are not").state, ClaimState::not_measured);
  runs[0].learning_rate.values = {1e-3};
  EXPECT_EQ(claim_of(runs, "Adam's outliers are not").state, ClaimState::shown);
}

TEST(RecipeKind, NamesModelsByOptimizerNormAndProjection) {
  EXPECT_EQ(kind_name(recipe_kind(kOsp)), "OSP");
  EXPECT_EQ(kind_name(recipe_kind(kAdam)), "Adam");
  EXPECT_EQ(kind_name(recipe_kind(recipe("osp", "rms", true))), "Muon + EmbProj");
  EXPECT_EQ(kind_name(recipe_kind(recipe("muon", "rms", false))), "Muon on everything");
  EXPECT_EQ(kind_name(recipe_kind(recipe("osp", "simple", true))),
            "Muon + Simple RMSNorm + EmbProj");
  EXPECT_EQ(kind_name(recipe_kind(Json::object())), "");
}

}  // namespace
}  // namespace osp
