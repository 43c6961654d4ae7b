// Quantization-aware training: forward values of the grids, straight-through gradients.
#include "osp/quant/qat.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include "osp/base/test_error.h"
#include "osp/ops/hadamard.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

ParameterStore small_model(int64_t head_size) {
  ModelConfig config;
  config.layers = 1;
  config.heads = 2;
  config.head_size = head_size;
  config.width = 2 * head_size;
  config.inner = 64;
  config.vocabulary = 32;
  config.context = 16;
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 3);
  return store;
}

TEST(Qat, AnActivationIsOnTheGridAndItsGradientPassesStraightThrough) {
  const ParameterStore store = small_model(16);
  QatTap tap(store, parse_bits("4-4-4"));
  const at::Tensor x = at::randn({1, 5, 32}).requires_grad_(true);
  const at::Tensor y = tap.at(TapPoint::mlp_input, 0, x);
  EXPECT_TRUE(at::equal(y.detach(), fake_quantize_asymmetric(x, 4, 32, GroupRange::contains_zero)));
  const at::Tensor dy = at::randn({1, 5, 32});
  y.mul(dy).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), dy));
}

TEST(Qat, TheGradientOfAKeyGoesBackThroughTheHadamardTransform) {
  for (const int64_t head_size : {16, 12}) {  // 12: Paley's matrix is not symmetric
    const ParameterStore store = small_model(head_size);
    QatTap tap(store, parse_bits("16-16-4"));
    const at::Tensor x = at::randn({1, 2, 5, head_size}).requires_grad_(true);
    const at::Tensor dy = at::randn({1, 2, 5, head_size});
    for (const TapPoint point : {TapPoint::query, TapPoint::key}) {
      x.mutable_grad() = at::Tensor();
      tap.at(point, 0, x).mul(dy).sum().backward();
      const at::Tensor expected = hadamard_transform_reference(dy, {.transposed = true});
      // One transform in fp32: 16 additions of numbers of size 1.
      EXPECT_LT((x.grad() - expected).abs().max().item<double>(), 1e-5);
    }
  }
}

TEST(Qat, AWeightIsOnTheGridOfItsLargestElementAndItsGradientPassesStraightThrough) {
  const ParameterStore store = small_model(16);
  QatTap tap(store, parse_bits("4-16-16"));
  const int64_t parameter = store.find("model.layers.0.mlp.down_proj.weight");
  const at::Tensor w = store.compute(parameter).clone().requires_grad_(true);
  const at::Tensor y = tap.weight(parameter, w);
  EXPECT_TRUE(at::equal(y.detach(), fake_quantize_symmetric(w.detach(), 4, false)));
  const at::Tensor dy = at::randn(w.sizes());
  y.mul(dy).sum().backward();
  EXPECT_TRUE(at::equal(w.grad(), dy));
}

TEST(Qat, OnlyTheInputsThatAreNamedAreQuantized) {
  const ParameterStore store = small_model(16);
  const at::Tensor x = at::randn({1, 5, 32}), product = at::randn({1, 5, 64});
  QatTap tap(store, parse_bits("16-4-4"), parse_input_points("mlp_product"));
  for (const TapPoint point :
       {TapPoint::attention_input, TapPoint::attention_output, TapPoint::mlp_input}) {
    EXPECT_FALSE(tap.wants(point, 0));
    EXPECT_TRUE(tap.at(point, 0, x).is_same(x));
  }
  EXPECT_TRUE(at::equal(tap.at(TapPoint::mlp_product, 0, product),
                        fake_quantize_asymmetric(product, 4, 64, GroupRange::contains_zero)));
  EXPECT_TRUE(tap.wants(TapPoint::key, 0));  // the cache follows the bits alone
}

TEST(Qat, PointsAreNamedAndMistakesAreRefused) {
  EXPECT_EQ(parse_input_points("all").size(), 4u);
  EXPECT_EQ(parse_input_points("mlp_input,mlp_product"),
            (std::set<TapPoint>{TapPoint::mlp_input, TapPoint::mlp_product}));
  for (const char* text : {"", "mlp", "mlp_input,", "all,mlp_input"}) {
    EXPECT_NE(message_of(ErrorCode::usage, [&] { parse_input_points(text); }).find("expected all"),
              std::string::npos)
        << text;
  }
}

TEST(Qat, EmbeddingAndHeadStayAsTheyAre) {
  const ParameterStore store = small_model(16);
  QatTap tap(store, parse_bits("4-4-4"));
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"}) {
    const int64_t parameter = store.find(name);
    const at::Tensor w = store.compute(parameter);
    EXPECT_TRUE(tap.weight(parameter, w).is_same(w)) << name;
  }
}

}  // namespace
}  // namespace osp
