#include "osp/optim/make_optimizers.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "osp/optim/test_banks.h"

namespace osp {
namespace {

TEST(MakeOptimizers, EveryBankIsSteppedByItsGroupAndFrozenOnesStay) {
  ModelConfig model = resolved({.layers = 1, .width = 16, .heads = 2, .vocabulary = 32});
  const auto specs = parameter_specs(model);
  const OptimConfig config{.gain_rule = "frozen"};
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
    EXPECT_EQ(optimizers[i]->last_update_norm() > 0,
              routing.groups[i].kind != OptimizerKind::frozen);
  }
  for (size_t i = 0; i < store.banks.size(); ++i) {
    const bool frozen = store.banks[i].kind == ParameterKind::gain;
    EXPECT_EQ(at::equal(before[i], store.banks[i].master), frozen) << store.banks[i].name;
  }
}

TEST(MakeOptimizers, StateBytesAreThoseOfTheStatesWithoutCounters) {
  const ModelConfig model = resolved({.layers = 2, .width = 16, .heads = 2, .vocabulary = 32});
  const auto specs = parameter_specs(model);
  for (const OptimConfig& config : std::vector<OptimConfig>{
           {.name = "osp"},
           {.name = "osp", .momentum_bits = 8},
           {.name = "osp", .momentum_bits = 8, .per_head = true},
           {.name = "adam"},
           {.name = "adafactor"},
           {.name = "adafactor", .adafactor_momentum = 0.9},
           {.name = "shampoo"},
           {.name = "shampoo", .shampoo_block = 7},
           {.name = "soap"},
           {.name = "kfac"},
           {.name = "soap", .soap_largest_basis = 20},
       }) {
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

}  // namespace
}  // namespace osp
