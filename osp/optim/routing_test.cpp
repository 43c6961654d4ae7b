#include "osp/optim/routing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "osp/base/test_error.h"
#include "osp/optim/adafactor.h"
#include "osp/optim/adamw.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

std::vector<ParameterSpec> small_model() {
  std::vector<ParameterSpec> specs = {
      {"model.embed_tokens.weight", {32, 8}, ParameterRole::embedding, ParameterKind::embedding},
      {"model.embed_proj.weight",
       {8, 8},
       ParameterRole::embedding_projection,
       ParameterKind::embedding_projection}};
  for (int64_t layer = 0; layer < 2; ++layer) {
    const std::string block = fmt::format("model.layers.{}.", layer);
    specs.push_back({block + "input_layernorm.weight",
                     {1},
                     ParameterRole::input_norm,
                     ParameterKind::gain,
                     layer});
    specs.push_back({block + "self_attn.q_proj.weight",
                     {8, 8},
                     ParameterRole::query,
                     ParameterKind::matrix,
                     layer});
    specs.push_back({block + "self_attn.o_proj.weight",
                     {8, 8},
                     ParameterRole::attention_output,
                     ParameterKind::matrix,
                     layer});
    specs.push_back({block + "mlp.down_proj.weight",
                     {8, 24},
                     ParameterRole::down,
                     ParameterKind::matrix,
                     layer});
  }
  specs.push_back({"lm_head.weight", {32, 8}, ParameterRole::head, ParameterKind::head});
  return specs;
}

std::string group_of(const Routing& routing, const std::string& name) {
  const auto specs = small_model();
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return routing.groups[routing.group_of[i]].name;
  }
  return "no such parameter";
}

// Routing with these options is a usage error that says all of `parts`.
void expect_refusal(const OptimConfig& config, const std::vector<std::string>& parts) {
  expect_error(ErrorCode::usage, parts, [&] { route_parameters(small_model(), config); });
}

TEST(Routing, OspGivesTablesToAdamAndEveryMatrixToMuon) {
  const Routing routing = route_parameters(small_model(), {.name = "osp"});
  EXPECT_EQ(group_of(routing, "model.embed_tokens.weight"), "adam");
  EXPECT_EQ(group_of(routing, "lm_head.weight"), "adam");
  EXPECT_EQ(group_of(routing, "model.embed_proj.weight"), "muon");
  EXPECT_EQ(group_of(routing, "model.layers.1.mlp.down_proj.weight"), "muon");
  EXPECT_EQ(group_of(routing, "model.layers.0.input_layernorm.weight"), "gain");
  ASSERT_EQ(routing.groups.size(), 3u);
  EXPECT_EQ(routing.groups[0].clip, 1.0);  // Adam's gradients are clipped, Muon's are not
  EXPECT_EQ(routing.groups[1].clip, 0.0);
}

TEST(Routing, ShampooSoapAndKfacTakeHiddenMatricesAndEmbProjAndAdamTheRest) {
  for (const OptimizerRow* row : optimizer_rows()) {
    if (row->coverage != Coverage::linear_layers) continue;
    const std::string name = row->name;
    const Routing routing = route_parameters(small_model(), {.name = name});
    EXPECT_EQ(group_of(routing, "model.embed_proj.weight"), name);
    EXPECT_EQ(group_of(routing, "model.layers.1.mlp.down_proj.weight"), name);
    EXPECT_EQ(group_of(routing, "model.embed_tokens.weight"), "adam");
    EXPECT_EQ(group_of(routing, "lm_head.weight"), "adam");
    EXPECT_EQ(group_of(routing, "model.layers.0.input_layernorm.weight"), "adam");
  }
}

TEST(Routing, AdamAndAdafactorTakeEverythingAndMuonEveryMatrix) {
  const Routing adam = route_parameters(small_model(), {.name = "adam"});
  ASSERT_EQ(adam.groups.size(), 1u);
  EXPECT_EQ(adam.groups[0].optimizer, &kAdamRow);
  const Routing adafactor = route_parameters(small_model(), {.name = "adafactor"});
  ASSERT_EQ(adafactor.groups.size(), 1u);
  EXPECT_EQ(adafactor.groups[0].optimizer, &kAdafactorRow);
  const Routing muon = route_parameters(small_model(), {.name = "muon"});
  EXPECT_EQ(group_of(muon, "model.embed_tokens.weight"), "muon");
  EXPECT_EQ(group_of(muon, "lm_head.weight"), "muon");
  EXPECT_EQ(group_of(muon, "model.layers.0.input_layernorm.weight"), "gain");
}

TEST(Routing, GainsFollowTheirRule) {
  const std::string gain = "model.layers.0.input_layernorm.weight";
  EXPECT_EQ(group_of(route_parameters(small_model(), {.gain = {.rule = "adam"}}), gain), "adam");
  EXPECT_EQ(group_of(route_parameters(small_model(), {.gain = {.rule = "frozen"}}), gain),
            "frozen");
  EXPECT_EQ(
      group_of(route_parameters(small_model(), {.name = "adam", .gain = {.rule = "reference"}}),
               gain),
      "gain");
  const Routing undecayed = route_parameters(small_model(), {.name = "adam", .decay_gain = false});
  EXPECT_EQ(group_of(undecayed, gain), "adam-gain");
  EXPECT_TRUE(undecayed.groups[0].decays);
  EXPECT_FALSE(undecayed.groups[1].decays);
  const Routing adafactor =
      route_parameters(small_model(), {.name = "adafactor", .decay_gain = false});
  EXPECT_EQ(group_of(adafactor, gain), "adafactor-gain");
  EXPECT_FALSE(adafactor.groups[1].decays);
}

TEST(Routing, PerHeadSplitsQueriesKeysAndValuesOnly) {
  const Routing routing = route_parameters(small_model(), {.muon = {.per_head = true}}, 4);
  EXPECT_EQ(group_of(routing, "model.layers.0.self_attn.q_proj.weight"), "muon-heads");
  EXPECT_EQ(group_of(routing, "model.layers.0.self_attn.o_proj.weight"), "muon");
  for (const OptimizerGroup& group : routing.groups) {
    EXPECT_EQ(group.split_rows, group.name == "muon-heads" ? 4 : 0);
  }
}

TEST(Routing, ExceptionsByNameWinOverKinds) {
  const Routing routing = route_parameters(
      small_model(), {.routes = "model.layers.*.self_attn.*=adam; lm_head.*=frozen"});
  EXPECT_EQ(group_of(routing, "model.layers.1.self_attn.q_proj.weight"), "adam");
  EXPECT_EQ(group_of(routing, "model.layers.1.mlp.down_proj.weight"), "muon");
  EXPECT_EQ(group_of(routing, "lm_head.weight"), "frozen");
  const Routing tables = route_parameters(small_model(), {.routes = "*embed_tokens*=adafactor"});
  EXPECT_EQ(group_of(tables, "model.embed_tokens.weight"), "adafactor");
}

TEST(Routing, DoubleMatchNamesParameterAndBothRules) {
  expect_refusal({.routes = "model.layers.0.*=adam;*.mlp.*=muon"},
                 {"model.layers.0.mlp.down_proj.weight", "model.layers.0.*=adam", "*.mlp.*=muon"});
}

TEST(Routing, UnmatchedParameterIsNamed) {
  expect_refusal({.name = "routes", .routes = "model.*=adam"},
                 {"lm_head.weight matches none", "no rule for a head"});
}

TEST(Routing, RuleWithoutParameterIsAnError) {
  expect_refusal({.routes = "model.layers.*.attn.*=adam"},
                 {"\"model.layers.*.attn.*=adam\" matches no parameter"});
}

TEST(Routing, RefusesShapesThatAnOptimizerCannotTrain) {
  expect_refusal({.routes = "*layernorm*=muon"},
                 {"model.layers.0.input_layernorm.weight [1] cannot be trained by muon"});
  expect_refusal({.routes = "*layernorm*=soap"}, {"cannot be trained by soap"});
  expect_refusal({.routes = "*layernorm*=shampoo"}, {"cannot be trained by shampoo"});
  expect_refusal({.routes = "lm_head.*=kfac"}, {"cannot be trained by kfac", "linear layer"});
  expect_refusal({.routes = "lm_head.*=gain"}, {"lm_head.weight [32, 8] cannot"});
}

TEST(Routing, RefusesMomentumInOtherBitsThan8And32) {
  for (const int64_t bits : {9, 16, 31}) {
    expect_refusal({.muon = {.momentum_bits = bits}}, {"optim.momentum_bits", "32 bits or in 8"});
  }
}

TEST(Routing, RefusesMalformedRules) {
  expect_refusal({.routes = "lm_head.weight"}, {"pattern=optimizer"});
  expect_refusal({.routes = "lm_head.weight=sgd"}, {"\"sgd\"", "adam, muon, adafactor"});
}

TEST(Routing, GlobStarsMatchAnyRun) {
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_TRUE(glob_match("a*b*c", "aXbbYc"));
  EXPECT_TRUE(glob_match("*.weight", "model.embed.weight"));
  EXPECT_FALSE(glob_match("a*b*c", "aXbbY"));
  EXPECT_FALSE(glob_match("model", "model.embed"));
  EXPECT_FALSE(glob_match("", "x"));
}

TEST(Routing, TableJoinsLayersAndCountsEveryParameter) {
  const OptimConfig config{.lr = 0.002, .muon_lr_scale = 2};
  const Routing routing = route_parameters(small_model(), config);
  const Json rows = routing_json(small_model(), routing, config);
  int64_t total = 0;
  for (const Json& row : rows) {
    total += row["count"].get<int64_t>();
    if (row["pattern"] != "model.layers.*.mlp.down_proj.weight") continue;
    EXPECT_EQ(row["count"], 2);
    EXPECT_EQ(row["optimizer"], "muon");
    EXPECT_EQ(row["lr"], 0.004);
    EXPECT_NEAR(row["update_scale"].get<double>(), 0.2 * std::sqrt(24.0), 1e-15);
  }
  EXPECT_EQ(total, static_cast<int64_t>(small_model().size()));
  EXPECT_NE(
      routing_table(small_model(), routing, config).find("model.layers.*.mlp.down_proj.weight"),
      std::string::npos);
}

TEST(Routing, TheTableHasTheUpdateScaleOfRowsAndColumnsAndOfOneHead) {
  const OptimConfig config{.muon = {.per_head = true, .update_scale = "spectral"}};
  const Routing routing = route_parameters(small_model(), config, 4);
  std::map<std::string, double> scales;
  for (const Json& row : routing_json(small_model(), routing, config)) {
    scales[row["pattern"]] = row["update_scale"].get<double>();
  }
  EXPECT_DOUBLE_EQ(scales.at("model.layers.*.mlp.down_proj.weight"), std::sqrt(8.0 / 24));
  EXPECT_DOUBLE_EQ(scales.at("model.layers.*.self_attn.q_proj.weight"), std::sqrt(4.0 / 8));
}

}  // namespace
}  // namespace osp
