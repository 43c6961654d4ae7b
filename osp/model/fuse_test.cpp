#include "osp/model/fuse.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "osp/base/philox.h"
#include "osp/model/hf_config.h"
#include "osp/model/test_model.h"

namespace osp {
namespace {

ParameterStore random_model(const std::string& norm, bool projection, bool qk_norm = false) {
  // more than the rows that fusing takes at a time
  ModelConfig config = grouped_query_config(1500, 32);
  config.norm = norm;
  config.embedding_projection = projection;
  config.tied = !projection;
  config.qk_norm = qk_norm;
  config.init_std = 0.2;
  ParameterStore store = initialized_model(config, 3);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind == ParameterKind::gain) {
      store.master(static_cast<int64_t>(i)).mul_(1.0 + 0.1 * static_cast<double>(i + 1));
    }
  }
  sync_compute(store);
  return store;
}

at::Tensor random_tokens() {
  const RandomStream random(1, "fuse_test");
  std::vector<int64_t> ids(24);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int64_t>(random.below(i, 1500));
  return at::tensor(ids).view({2, 12});
}

TEST(Fuse, LogitsOfEveryVariantStay) {
  for (const std::string norm : {"rms", "single-scale", "simple"}) {
    for (const bool projection : {false, true}) {
      for (const bool qk_norm : {false, true}) {
        const ParameterStore store = random_model(norm, projection, qk_norm);
        const ParameterStore fused = fuse(store);
        EXPECT_EQ(fused.config.norm, "rms");
        EXPECT_FALSE(fused.config.embedding_projection);
        EXPECT_EQ(is_plain_llama(fused.config), !qk_norm);
        // fp32 rounding (2^-24) of the tables and of sums of 32 to 48 terms, through two blocks.
        EXPECT_LT(compare_logits(store, fused, random_tokens()).relative, 1e-5)
            << norm << " " << projection << " " << qk_norm;
      }
    }
  }
}

TEST(Fuse, OutlierProtectedBlocksKeepNeitherScalarsNorTheEmbeddingsNorm) {
  for (const bool projection : {false, true}) {  // without it the head is tied
    ModelConfig config = random_model("none", projection, true).config;
    config.embedding_norm = config.branch_scale = true;
    config.output_bias = config.mlp_bias = true;
    ParameterStore store = make_parameters(resolved_config(config), {});
    initialize_parameters(store, 4);
    for (size_t i = 0; i < store.specs.size(); ++i) {
      at::Tensor weight = store.master(static_cast<int64_t>(i));
      if (weight.dim() == 1) weight.add_(0.1 + 0.01 * static_cast<double>(i));
    }
    sync_compute(store);
    const ParameterStore fused = fuse(store);
    EXPECT_TRUE(needs_fusing(store.config));
    EXPECT_FALSE(needs_fusing(fused.config));
    EXPECT_FALSE(fused.config.tied);
    EXPECT_EQ(architecture_name(fused.config), "OspForCausalLM");
    for (const ParameterSpec& spec : fused.specs) {
      const bool gone = spec.name.find("embed_norm") != std::string::npos ||
                        spec.name.find("branch_scale") != std::string::npos;
      EXPECT_FALSE(gone) << spec.name;
    }
    // As in LogitsOfEveryVariantStay.
    EXPECT_LT(compare_logits(store, fused, random_tokens()).relative, 1e-5) << projection;
  }
}

TEST(Fuse, NormsOfTheEmbeddingAndBranchScalesOfALlamaLeaveALlama) {
  ModelConfig config = random_model("rms", true).config;
  config.embedding_norm = config.branch_scale = true;
  ParameterStore store = initialized_model(config, 4);
  const ParameterStore fused = fuse(store);
  EXPECT_TRUE(is_plain_llama(fused.config));
  EXPECT_LT(compare_logits(store, fused, random_tokens()).relative, 1e-5);
}

TEST(Fuse, PlainLlamaIsCopiedBitForBit) {
  const ParameterStore store = random_model("rms", false);
  const ParameterStore fused = fuse(store);
  ASSERT_EQ(fused.specs.size(), store.specs.size());
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const int64_t index = static_cast<int64_t>(i);
    EXPECT_TRUE(at::equal(fused.master(index), store.master(index))) << store.specs[i].name;
  }
}

TEST(Fuse, ComparisonSeesAChangedWeight) {
  const ParameterStore a = random_model("single-scale", true);
  const ParameterStore b = random_model("single-scale", true);
  EXPECT_EQ(compare_logits(a, b, random_tokens()).largest, 0.0);
  b.master(b.find("model.layers.0.mlp.down_proj.weight")).mul_(1.01);
  EXPECT_GT(compare_logits(a, b, random_tokens()).relative, 1e-5);
}

}  // namespace
}  // namespace osp
