#include "osp/diagnose/cost_verdict.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

// A model whose readers, product and weights cost what the tests change; nothing helps.
CostReport plain_report() {
  CostReport report;
  OutlierTax& tax = report.tax;
  tax.bits = {4, 4, 4};
  tax.wide = {4, 8, 8};
  tax.kl = 0.2;
  tax.wide_kl = 0.03;
  tax.state_error = 0.029;
  tax.all = {.own = 0.199, .rotated = {0.197, 0.199}};
  report.attribution.all = 0.21;
  for (const QuantSite site : kQuantSites) report.attribution.sites.push_back({site, 0.02, 0.1});
  report.linears.push_back({"q", ParameterRole::query, 0, 0.5, 10});
  report.mean_shares[{TapPoint::attention_input, 0}] = 0.6;
  report.mean_shares[{TapPoint::mlp_input, 0}] = 0.4;
  report.mean_shares[{TapPoint::mlp_product, 0}] = 0.0;
  return report;
}

Remedy groups(double kl) { return {.groups = {.down = 64}, .kl = kl}; }
Remedy offset(double kl) { return {.offset = MeanOffset::residual, .kl = kl}; }
Remedy both(double kl) {
  return {.groups = {.down = 64}, .offset = MeanOffset::residual, .kl = kl};
}

testing::AssertionResult says(const std::string& text, const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (text.find(word) == std::string::npos) {
      return testing::AssertionFailure() << "\"" << word << "\" is not in: " << text;
    }
  }
  return testing::AssertionSuccess();
}

std::string method_of(const CostReport& report) { return cost_verdict(report).at(2); }
std::string bits_of(const CostReport& report) { return cost_verdict(report).back(); }
std::string remedy_of(const std::vector<Remedy>& remedies, double own = 0.199) {
  CostReport report = plain_report();
  report.remedies = remedies;
  report.tax.all.own = own;
  const std::vector<std::string> verdict = cost_verdict(report);
  return verdict.size() == 5 ? verdict.at(3) : "";
}

TEST(CostVerdict, ReasonsNameTheProductTheGainAndTheErrorOfTheLastState) {
  EXPECT_TRUE(says(cost_verdict(plain_report()).at(1),
                   {"of 0.2100 nats", "down projection alone costs 0.0200", "0.50 of the relative",
                    "2.9 % of its energy (R_L)"}));
}

TEST(CostVerdict, TheMethodIsARotationWhereTheTaxCounts) {
  CostReport report = plain_report();
  report.tax.all = {.own = 0.19, .rotated = {0.1, 0.1}};
  EXPECT_TRUE(says(method_of(report), {"--method quarot+gptq", "costs 0.1000 nats", "0.2000"}));
  report.tax.refusal = "norms behind the branches";
  report.tax.all.rotated.clear();
  EXPECT_TRUE(says(method_of(report), {"--method gptq`; no Hadamard gives back more"}));
}

TEST(CostVerdict, TheMethodIsTheHadamardWhereTheProductIsTheDamage) {
  CostReport report = plain_report();
  report.tax.all = {.own = 0.1, .rotated = {0.099, 0.099}};
  EXPECT_TRUE(says(method_of(report), {"--method ffn-hadamard+gptq", "costs 0.1000", "0.2000"}));
}

TEST(CostVerdict, TheMethodIsBetterRoundingWhereNoBasisHelps) {
  EXPECT_TRUE(says(
      method_of(plain_report()),
      {"--method gptq`",
       "neither a Hadamard nor a rotation behind it gives back more than 5.0 % of the 0.2000"}));
}

TEST(CostVerdict, GroupsOfTheProductAreNamedWithWhatTheHadamardLeaves) {
  EXPECT_TRUE(says(remedy_of({groups(0.12), offset(0.199), both(0.119)}, 0.11),
                   {"`osp quantize --down-group 64`", "costs 0.1200", "leaves 0.1100"}));
}

TEST(CostVerdict, TheOffsetIsNamedWithTheShareOfTheMeanInWhatReadersGet) {
  const std::string text = remedy_of({groups(0.198), offset(0.15), both(0.149)});
  EXPECT_TRUE(says(text, {"`osp quantize --mean-offset residual`", "0.1500", "50.0 % of the"}));
  EXPECT_EQ(text.find("Hadamard"), std::string::npos);
}

TEST(CostVerdict, BothOptionsAreNamedWhereBothAreWorthIt) {
  EXPECT_TRUE(says(remedy_of({groups(0.12), offset(0.15), both(0.08)}, 0.11),
                   {"`osp quantize --down-group 64 --mean-offset residual`", "0.0800",
                    "50.0 % of the", "leaves 0.1100"}));
}

TEST(CostVerdict, OptionsThatDoNotHelpAreSaidToBeMeasured) {
  EXPECT_TRUE(says(remedy_of({groups(0.198), offset(0.199)}),
                   {"nothing that counts", "`--down-group 64` 0.1980",
                    "`--mean-offset residual` 0.1990", "in place of 0.2000"}));
  EXPECT_EQ(remedy_of({}), "");
}

TEST(CostVerdict, FewBitsWhereTheLeastDivergenceIsBearable) {
  CostReport report = plain_report();
  report.tax.kl = 0.06;
  report.tax.all = {.own = 0.055, .rotated = {0.049, 0.045}};
  EXPECT_TRUE(says(bits_of(report), {"`--bits 4-4-4`", "costs 0.0470 nats", "less than 0.05 nats",
                                     "4-8-8 without any of them 0.0300"}));
  report.tax.all = {.own = 0.06, .rotated = {0.06}};
  report.remedies = {groups(0.04)};
  EXPECT_TRUE(says(bits_of(report), {"`--bits 4-4-4`", "costs 0.0400 nats"}));
  report.tax.bits = report.tax.wide;
  EXPECT_EQ(bits_of(report).find("without any of them"), std::string::npos);
}

TEST(CostVerdict, WideActivationsWhereOnlyTheyAreBearable) {
  EXPECT_TRUE(says(bits_of(plain_report()), {"`--bits 4-8-8`", "costs 0.0300 nats as the model is",
                                             "at 4-4-4 the best of these costs 0.1990"}));
}

TEST(CostVerdict, MoreBitsWhereNeitherIsBearable) {
  CostReport report = plain_report();
  report.tax.wide_kl = 0.15;
  EXPECT_TRUE(says(bits_of(report), {"more; the best of these costs 0.1990 nats at 4-4-4",
                                     "4-8-8 as the model is 0.1500", "more than 0.05 nats"}));
  EXPECT_EQ(bits_of(report).find("weights"), std::string::npos);
  report.attribution.sites.back().only = 0.14;  // weights
  EXPECT_TRUE(says(bits_of(report), {"weights alone cost 0.1400", "8 bits", "`--group 64`"}));
}

}  // namespace
}  // namespace osp
