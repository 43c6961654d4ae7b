#include "osp/quant/joined_layers.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "osp/model/test_model.h"

namespace osp {
namespace {

std::vector<std::string> joined_with(const std::vector<ParameterSpec>& specs,
                                     const std::string& name) {
  std::vector<std::string> names;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name != name) continue;
    for (const int64_t layer : joined_layers(specs, static_cast<int64_t>(i))) {
      names.push_back(specs[static_cast<size_t>(layer)].name);
    }
  }
  return names;
}

TEST(JoinedLayers, AreThoseThatReadOneInput) {
  const std::vector<ParameterSpec> specs = small_fused_model(/*kv_heads=*/2).specs;
  const std::string attention = "model.layers.1.self_attn.", mlp = "model.layers.1.mlp.";
  const std::vector<std::string> qkv = {attention + "q_proj.weight", attention + "k_proj.weight",
                                        attention + "v_proj.weight"};
  for (const std::string& name : qkv) EXPECT_EQ(joined_with(specs, name), qkv);
  const std::vector<std::string> pair = {mlp + "gate_proj.weight", mlp + "up_proj.weight"};
  for (const std::string& name : pair) EXPECT_EQ(joined_with(specs, name), pair);
  for (const std::string& name : {attention + "o_proj.weight", mlp + "down_proj.weight"}) {
    EXPECT_EQ(joined_with(specs, name), std::vector{name});
  }
}

TEST(JoinedLayers, OfAnExpertAreItsOwn) {
  const auto spec = [](ParameterRole role, int64_t layer, int64_t expert) {
    return ParameterSpec{.name = parameter_name(role, layer, expert),
                         .shape = {4, 4},
                         .role = role,
                         .kind = ParameterKind::matrix,
                         .layer = layer,
                         .expert = expert};
  };
  std::vector<ParameterSpec> specs;
  for (int64_t layer = 0; layer < 2; ++layer) {
    for (int64_t expert = 0; expert < 3; ++expert) {
      for (const ParameterRole role :
           {ParameterRole::gate, ParameterRole::up, ParameterRole::down}) {
        specs.push_back(spec(role, layer, expert));
      }
    }
  }
  EXPECT_EQ(joined_layers(specs, 3), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(joined_layers(specs, 4), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(joined_layers(specs, 5), std::vector<int64_t>{5});
  EXPECT_EQ(joined_layers(specs, 16), (std::vector<int64_t>{15, 16}));
}

TEST(JoinedLayers, ShareTheConstantOfTheLargest) {
  ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const int64_t query = store.find("model.layers.0.self_attn.q_proj.weight");
  const int64_t key = store.find("model.layers.0.self_attn.k_proj.weight");
  store.master(query)[0][0] = -50.0f;
  const WeightGrid grid = float_weight_grid(NumberKind::nvfp4);
  EXPECT_EQ(grid_of_layer(grid, store, key).shared_largest, 50.0f);
  const int64_t down = store.find("model.layers.0.mlp.down_proj.weight");
  EXPECT_EQ(grid_of_layer(grid, store, down).shared_largest,
            store.master(down).abs().max().item<float>());
  const at::Tensor weight = store.master(key);
  const at::Tensor of_key = find_grid(weight, grid_of_layer(grid, store, key), "key").global;
  EXPECT_TRUE(of_key.equal(find_grid(store.master(query), grid, "query").global));
  EXPECT_FALSE(of_key.equal(find_grid(weight, grid, "key").global));
  // Other formats have nothing to share.
  for (const NumberKind kind : {NumberKind::mxfp4, NumberKind::fp8}) {
    EXPECT_EQ(grid_of_layer(float_weight_grid(kind), store, key).shared_largest, 0.0f);
  }
}

}  // namespace
}  // namespace osp
