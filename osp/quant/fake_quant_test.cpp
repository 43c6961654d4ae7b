#include "osp/quant/fake_quant.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/model/transformer.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

ParameterStore model_of_head_size(int64_t head_size = 16) {
  ModelConfig config;
  config.layers = 2;
  config.width = 4 * head_size;
  config.heads = 4;
  config.kv_heads = 2;
  config.vocabulary = 50;
  config.context = 32;
  config.init_std = 0.2;  // large enough that attention is not uniform
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 3);
  return store;
}

at::Tensor tokens() { return at::arange(64, at::kLong).remainder(50).view({2, 32}); }

at::Tensor logits(const ParameterStore& store, Tap* tap) {
  ForwardOptions options;
  options.tap = tap;
  return forward_logits(store, tokens(), options);
}

double damage(const ParameterStore& store, const char* bits) {
  FakeQuantTap tap(store, parse_bits(bits));
  return logits(store, &tap).sub(logits(store, nullptr)).square().mean().item<double>();
}

TEST(FakeQuant, SixteenBitsLeaveTheLogitsBitIdentical) {
  const ParameterStore store = model_of_head_size();
  FakeQuantTap tap(store, parse_bits("16-16-16"));
  EXPECT_TRUE(logits(store, &tap).equal(logits(store, nullptr)));
}

TEST(FakeQuant, FewerBitsDoMoreDamageInEveryPart) {
  const ParameterStore store = model_of_head_size();
  for (const char* form : {"{}-16-16", "16-{}-16", "16-16-{}", "{0}-{0}-{0}"}) {
    double last = 0.0;
    for (const int64_t bits : {8, 6, 4, 2}) {
      const double now = damage(store, fmt::format(fmt::runtime(form), bits).c_str());
      EXPECT_GT(now, last) << form << ' ' << bits;
      last = now;
    }
  }
}

TEST(FakeQuant, TheHadamardAloneChangesOnlyRounding) {
  // Queries and keys turned alike keep their products: with 8-bit keys what remains is the grid's.
  EXPECT_LT(damage(model_of_head_size(), "16-16-8"),
            1e-3 * damage(model_of_head_size(), "16-16-2"));
}

TEST(FakeQuant, OnlyMatricesOfTheBlocksAreQuantizedAndOnlyOnce) {
  const ParameterStore store = model_of_head_size();
  FakeQuantTap tap(store, parse_bits("4-16-16"));
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const int64_t parameter = static_cast<int64_t>(i);
    const at::Tensor w = store.compute(parameter);
    const at::Tensor q = tap.weight(parameter, w);
    if (store.specs[i].kind == ParameterKind::matrix) {
      EXPECT_TRUE(q.equal(fake_quantize_symmetric(w, 4, true))) << store.specs[i].name;
      EXPECT_FALSE(q.equal(w)) << store.specs[i].name;
      EXPECT_TRUE(tap.weight(parameter, w).is_same(q)) << store.specs[i].name;
    } else {
      EXPECT_TRUE(q.is_same(w)) << store.specs[i].name;
    }
  }
}

TEST(FakeQuant, HeadSizeWithoutAHadamardMatrixIsRefusedOnlyForTheCache) {
  const ParameterStore store = model_of_head_size(6);
  EXPECT_THROW(FakeQuantTap(store, parse_bits("4-4-4")), Error);
  EXPECT_GT(damage(store, "4-4-16"), 0.0);
}

}  // namespace
}  // namespace osp
