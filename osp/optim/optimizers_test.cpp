#include "osp/optim/optimizers.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "osp/base/error.h"
#include "osp/optim/frozen.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

TEST(Optimizers, EveryBankIsSteppedByItsGroupAndFrozenOnesStay) {
  ModelConfig model = resolved_config({.layers = 1, .width = 16, .heads = 2, .vocabulary = 32});
  const auto specs = parameter_specs(model);
  const OptimConfig config{.gain = {.rule = "frozen"}};
  const Routing routing = route_parameters(specs, config, model.head_size);
  ParameterStore store = make_parameters(model, {.gradients = true, .group = routing.group_of});
  initialize_parameters(store, 1);
  auto optimizers = make_optimizers(store, routing, config);
  ASSERT_EQ(optimizers.size(), routing.groups.size());
  std::vector<at::Tensor> before;
  for (Bank& bank : store.banks) {
    bank.gradient.copy_(random_tensor(bank.gradient.sizes().vec(), bank.name));
    before.push_back(bank.master.clone());
  }
  for (size_t i = 0; i < optimizers.size(); ++i) {
    optimizers[i]->step({.step = 1, .lr = 0.01, .weight_decay = 0.1, .measure = true});
    EXPECT_EQ(optimizers[i]->last_update_norm() > 0, routing.groups[i].optimizer != &kFrozenRow);
  }
  for (size_t i = 0; i < store.banks.size(); ++i) {
    const bool frozen = store.banks[i].kind == ParameterKind::gain;
    EXPECT_EQ(at::equal(before[i], store.banks[i].master), frozen) << store.banks[i].name;
  }
}

TEST(Optimizers, StateBytesAreThoseOfTheStatesWithoutCounters) {
  const ModelConfig model =
      resolved_config({.layers = 2, .width = 16, .heads = 2, .vocabulary = 32});
  const auto specs = parameter_specs(model);
  // Every name with its defaults, and options that change the size.
  std::vector<OptimConfig> configs = {
      {.name = "osp", .muon = {.momentum_bits = 8}},
      {.name = "osp", .muon = {.momentum_bits = 8, .per_head = true}},
      {.name = "adafactor", .adafactor = {.momentum = 0.9}},
      {.name = "shampoo", .shampoo = {.block = 7}},
      {.name = "soap", .soap = {.largest_basis = 20}},
  };
  for (const std::string& name : recipe_optimizer_names()) configs.push_back({.name = name});
  for (const OptimConfig& config : configs) {
    const Routing routing = route_parameters(specs, config, model.head_size);
    ParameterStore store = make_parameters(model, {.gradients = true, .group = routing.group_of});
    double expected = 0, found = 0;
    for (size_t i = 0; i < specs.size(); ++i) {
      const OptimizerGroup& group = routing.groups[size_t(routing.group_of[i])];
      expected += optimizer_state_bytes(group, specs[i].shape, config);
    }
    for (const auto& optimizer : make_optimizers(store, routing, config)) {
      for (const auto& [name, tensor] : optimizer->state()) {
        if (tensor.scalar_type() != at::kLong) found += double(tensor.nbytes());
      }
    }
    EXPECT_EQ(expected, found) << config.name;
    EXPECT_GT(found, 0);
  }
}

// A parameter of each shape that models have.
const std::vector<ParameterSpec>& specs_of_each_kind() {
  static const std::vector<ParameterSpec> specs =
      parameter_specs(resolved_config({.layers = 1, .width = 16, .heads = 2, .vocabulary = 32}));
  return specs;
}

TEST(OptimizerTable, NamesDifferAndFindTheirRows) {
  std::set<std::string> names;
  for (const OptimizerRow* row : optimizer_rows()) {
    EXPECT_TRUE(names.insert(row->name).second) << row->name;
    EXPECT_EQ(find_optimizer(row->name), row);
    EXPECT_STRNE(row->title, "");
    EXPECT_TRUE(row->make && row->state_bytes) << row->name;
  }
  EXPECT_EQ(find_optimizer("sgd"), nullptr);
  EXPECT_FALSE(names.contains("osp") || names.contains("routes")) << "taken by optim.name";
}

TEST(OptimizerTable, RecipesAcceptEveryRowThatCoversSomethingAndHelpNamesIt) {
  OptimConfig config;
  FieldTable table;
  table.add("optim", config);
  const FieldRef& name = table.find("optim.name", "test");
  const FieldRef& routes = table.find("optim.routes", "test");
  std::vector<std::string> expected = recipe_optimizer_names();
  expected.push_back("routes");
  EXPECT_EQ(name.choices, expected);
  for (const std::string& choice : name.choices) {
    EXPECT_NE(name.help.find(choice), std::string::npos) << choice;
  }
  for (const OptimizerRow* row : optimizer_rows()) {
    EXPECT_NE(routes.help.find(row->name), std::string::npos) << row->name;
    if (row->coverage == Coverage::none) continue;
    EXPECT_NO_THROW(table.assign_text(fmt::format("optim.name={}", row->name)));
    EXPECT_EQ(recipe_optimizer(row->name).row, row);
  }
  EXPECT_EQ(recipe_optimizer("osp").row->name, std::string("muon"));
}

TEST(OptimizerTable, EveryOptimizerThatARecipeNamesTrainsSomethingAndTheRestIsPlaced) {
  for (const std::string& name : recipe_optimizer_names()) {
    const Routing routing = route_parameters(specs_of_each_kind(), {.name = name});
    EXPECT_EQ(routing.group_of.size(), specs_of_each_kind().size());
    EXPECT_TRUE(std::ranges::any_of(routing.groups, [&](const OptimizerGroup& group) {
      return group.optimizer == recipe_optimizer(name).row;
    })) << name;
  }
}

TEST(OptimizerTable, ARouteIsAcceptedExactlyForTrainableParameters) {
  for (const OptimizerRow* row : optimizer_rows()) {
    for (const ParameterSpec& spec : specs_of_each_kind()) {
      const OptimConfig config{.routes = fmt::format("{}={}", spec.name, row->name)};
      if (row->trainable.includes(spec)) {
        EXPECT_NO_THROW(route_parameters(specs_of_each_kind(), config)) << config.routes;
        continue;
      }
      EXPECT_THROW(route_parameters(specs_of_each_kind(), config), Error) << config.routes;
      EXPECT_STRNE(row->trainable.needs, "") << row->name;
      EXPECT_STRNE(row->trainable.instead, "") << row->name;
    }
  }
}

TEST(OptimizerTable, OptimizersWatchPassesAsTheirRowsSay) {
  for (const OptimizerRow* row : optimizer_rows()) {
    Bank bank = random_bank("watch", {1, 1, 4});
    bank.members = {0};
    const auto optimizer = row->make({&bank}, {.name = row->name, .optimizer = row}, {});
    EXPECT_EQ(optimizer->watch_step() != nullptr, row->watches_passes) << row->name;
    EXPECT_GE(row->period({}), 1) << row->name;
  }
}

// Options of different optimizers differ, so that a row that reads another's is noticed.
TEST(OptimizerTable, EveryRowTakesRateDecayAndClippingFromItsOwnOptions) {
  OptimConfig config{.adam_lr_scale = 2, .muon_lr_scale = 3, .gain_lr_scale = 5};
  config.preconditioned_lr_scale = 7;
  config.clip_adam = 0.2;
  config.clip_muon = 0.3;
  config.clip_gain = 0.5;
  config.clip_preconditioned = 0.7;
  struct Expected {
    double lr_scale, clip;
    bool OptimConfig::*decay_of_matrices;
    bool OptimConfig::*decay_of_gains;
  };
  const Expected preconditioned{7, 0.7, &OptimConfig::decay_preconditioned,
                                &OptimConfig::decay_gain};
  const std::map<std::string, Expected> expected = {
      {"adam", {2, 0.2, &OptimConfig::decay_adam, &OptimConfig::decay_gain}},
      {"muon", {3, 0.3, &OptimConfig::decay_muon, &OptimConfig::decay_muon}},
      {"gain", {5, 0.5, &OptimConfig::decay_gain, &OptimConfig::decay_gain}},
      {"adafactor", preconditioned},
      {"shampoo", preconditioned},
      {"soap", preconditioned},
      {"kfac", preconditioned},
      {"frozen", {0, 0, nullptr, nullptr}}};
  const auto decays = {&OptimConfig::decay_adam, &OptimConfig::decay_muon, &OptimConfig::decay_gain,
                       &OptimConfig::decay_preconditioned};
  for (const OptimizerRow* row : optimizer_rows()) {
    const Expected& e = expected.at(row->name);
    EXPECT_EQ(row->settings(config, ParameterKind::matrix).lr_scale, e.lr_scale) << row->name;
    EXPECT_EQ(row->settings(config, ParameterKind::matrix).clip, e.clip) << row->name;
    for (const auto decay : decays) {  // the only one that is on
      for (const auto other : decays) config.*other = other == decay;
      EXPECT_EQ(row->settings(config, ParameterKind::matrix).decays, decay == e.decay_of_matrices)
          << row->name;
      EXPECT_EQ(row->settings(config, ParameterKind::gain).decays, decay == e.decay_of_gains)
          << row->name;
    }
  }
}

TEST(OptimizerTable, ShampooSoapAndKfacRenewAsOftenAsTheRecipeSaysAndTheOthersNever) {
  for (const OptimizerRow* row : optimizer_rows()) {
    const std::string name = row->name;
    const bool renews = name == "shampoo" || name == "soap" || name == "kfac";
    EXPECT_EQ(row->period({.precondition_every = 17}), renews ? 17 : 1) << name;
  }
}

// Keys and their order are part of recipe.json, whose bytes must not change with the structs.
TEST(OptimConfig, KeysKeepTheirOrder) {
  OptimConfig config;
  FieldTable table;
  table.add("", config);
  std::string keys;
  for (const FieldRef& field : table.fields()) keys += field.name + " ";
  EXPECT_EQ(keys,
            "name preset lr adam_lr_scale muon_lr_scale gain_lr_scale weight_decay decay_adam "
            "decay_muon decay_gain beta1 beta2 eps momentum nesterov momentum_bits ns_steps "
            "coefficients normalisation renormalize per_head update_scale gain_rule clip_adam "
            "clip_muon clip_gain preconditioned_lr_scale decay_preconditioned "
            "clip_preconditioned adafactor_decay adafactor_clip adafactor_momentum "
            "adafactor_relative_step precondition_beta precondition_every shampoo_block "
            "shampoo_eps soap_largest_basis kfac_damping kfac_clip kfac_gather_every routes ");
}

}  // namespace
}  // namespace osp
