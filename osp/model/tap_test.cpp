#include "osp/model/tap.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "osp/model/test_model.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

// Keeps the tensor of every point and the input of every linear layer.
struct KeepingTap : Tap {
  std::map<std::pair<TapPoint, int64_t>, at::Tensor> points;
  std::map<int64_t, at::Tensor> inputs;

  bool wants(TapPoint point, int64_t) const override { return point != TapPoint::attention_logits; }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    points[{point, layer}] = x;
    return x;
  }
  bool wants_linear() const override { return true; }
  void linear_input(std::span<const int64_t> parameters, const at::Tensor& x) override {
    for (const int64_t parameter : parameters) inputs[parameter] = x;
  }
};

TEST(Tap, InputPointShowsWhatTheLayerOfTheRoleReads) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  KeepingTap tap;
  ForwardOptions options;
  options.tap = &tap;
  forward_logits(store, at::arange(24, at::kLong).view({2, 12}), options);
  std::set<ParameterRole> seen;
  for (const auto& [parameter, x] : tap.inputs) {
    const ParameterSpec& spec = store.specs[static_cast<size_t>(parameter)];
    const at::Tensor shown = tap.points.at({input_point(spec.role), spec.layer});
    EXPECT_TRUE(at::equal(shown.flatten(0, -2), x)) << spec.name;
    seen.insert(spec.role);
  }
  // q, k, v, o, gate, up and down; the head is not watched as a linear layer.
  EXPECT_EQ(seen.size(), 7u);
}

TEST(Tap, LayersOfAnExpertReadTheRowsOfItsTokens) {
  const ParameterStore store = small_expert_model();
  KeepingTap tap;
  ForwardOptions options;
  options.tap = &tap;
  forward_logits(store, at::arange(24, at::kLong).view({2, 12}), options);
  int64_t rows = 0;
  for (const auto& [parameter, x] : tap.inputs) {
    const ParameterSpec& spec = store.specs[static_cast<size_t>(parameter)];
    if (spec.expert < 0) continue;
    // Every row is one of the point's.
    const at::Tensor shown = tap.points.at({input_point(spec.role), spec.layer}).flatten(0, -2);
    for (int64_t i = 0; i < x.size(0); ++i) {
      EXPECT_TRUE(shown.eq(x[i]).all(1).any().item<bool>()) << spec.name << " " << i;
    }
    if (spec.role == ParameterRole::down) rows += x.size(0);
  }
  EXPECT_EQ(rows, 2 * 2 * 24);  // two blocks, two experts per token
  EXPECT_EQ(tap.points.at({TapPoint::mlp_product, 1}).sizes(),
            (std::vector<int64_t>{2, 2, 12, 16}));
}

TEST(Tap, InputPointsOfTheHeadAreBehindTheLastBlock) {
  EXPECT_EQ(input_point(ParameterRole::head_projection), TapPoint::final_state);
  EXPECT_EQ(input_point(ParameterRole::head), TapPoint::head_input);
}

TEST(Tap, RolesThatAreNoLinearLayersHaveNoInputPoint) {
  for (const ParameterRole role :
       {ParameterRole::embedding, ParameterRole::embedding_projection, ParameterRole::input_norm,
        ParameterRole::query_norm, ParameterRole::mlp_branch_scale, ParameterRole::final_norm}) {
    EXPECT_ANY_THROW(input_point(role));
  }
}

}  // namespace
}  // namespace osp
