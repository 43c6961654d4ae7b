// llama.cpp's names, order of rows and rotary divisors.
#include "osp/model/gguf_names.h"

#include <gtest/gtest.h>

#include <set>

#include "osp/model/gguf_rope.h"

namespace osp {
namespace {

TEST(GgufNames, RowsOfAHeadAlternateBetweenItsHalves) {
  // Two heads of 6 rows: 0 3 1 4 2 5 and the same 6 further on.
  EXPECT_EQ(gguf_row_order(12, 2), (std::vector<int64_t>{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}));
}

TEST(GgufNames, ChannelsThatAreNotRotatedStayInTheirPlaces) {
  // One head of 6 rows, of which 4 are rotated.
  EXPECT_EQ(gguf_row_order(6, 1, 4), (std::vector<int64_t>{0, 2, 1, 3, 4, 5}));
}

TEST(GgufNames, JoinedProjectionsStandOneBehindTheOther) {
  ModelConfig config;
  config.family = "Phi3ForCausalLM";
  config.norm = "rms";
  config.embedding_projection = false;
  config.layers = 1;
  config.kv_heads = 2;
  config.vocabulary = 100;
  config = resolved_config(config);
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  std::set<std::string> names;
  for (const GgufStoredTensor& stored : gguf_stored_tensors(specs, config)) {
    EXPECT_TRUE(names.insert(stored.name).second);
    if (stored.name == "blk.0.attn_qkv.weight") {
      ASSERT_EQ(stored.parameters.size(), 3u);
      EXPECT_EQ(specs[static_cast<size_t>(stored.parameters[0])].role, ParameterRole::query);
      EXPECT_EQ(specs[static_cast<size_t>(stored.parameters[2])].role, ParameterRole::value);
      EXPECT_EQ(stored.shape[0], 256 + 2 * 128);
    }
    if (stored.name == "blk.0.ffn_up.weight") {
      ASSERT_EQ(stored.parameters.size(), 2u);
      EXPECT_EQ(specs[static_cast<size_t>(stored.parameters[0])].role, ParameterRole::gate);
      EXPECT_EQ(stored.shape[0], 2 * config.inner);
    }
  }
  EXPECT_TRUE(names.contains("blk.0.attn_qkv.weight") && names.contains("blk.0.ffn_up.weight"));
  EXPECT_FALSE(names.contains("blk.0.ffn_gate.weight"));
}

TEST(GgufNames, EveryParameterOfALlamaHasItsOwnName) {
  ModelConfig config;
  config.norm = "rms";
  config.embedding_projection = false;
  config.vocabulary = 100;
  config = resolved_config(config);
  const std::vector<ParameterSpec> specs = parameter_specs(config);
  std::set<std::string> names;
  for (const ParameterSpec& spec : specs) {
    const std::string name = gguf_tensor_name(spec, config);
    EXPECT_FALSE(name.empty()) << spec.name;
    EXPECT_TRUE(names.insert(name).second) << name;
  }
  EXPECT_TRUE(names.contains("blk.5.ffn_down.weight"));
  ParameterSpec other = specs[1];
  other.role = ParameterRole::embedding_projection;
  EXPECT_EQ(gguf_tensor_name(other, config), "");
}

TEST(GgufRope, DivisorsOfPublishedModelsAreRecognised) {
  for (const double factor : {8.0, 32.0}) {
    const std::vector<double> exact = llama3_divisors(500000.0, 64, factor);
    EXPECT_EQ(exact.front(), 1.0);
    EXPECT_EQ(exact.back(), factor);
    std::vector<float> stored(exact.begin(), exact.end());
    const Json scaling = rope_scaling_of_divisors(stored, 500000.0);
    EXPECT_EQ(scaling.at("factor"), factor);
    EXPECT_EQ(scaling.at("rope_type"), "llama3");
    stored[15] *= 1.01f;
    EXPECT_TRUE(rope_scaling_of_divisors(stored, 500000.0).is_discarded());
  }
  EXPECT_TRUE(rope_scaling_of_divisors(std::vector<float>(32, 1.0f), 500000.0).is_null());
  EXPECT_TRUE(rope_scaling_of_divisors(std::vector<float>(32, 2.0f), 500000.0).is_discarded());
}

}  // namespace
}  // namespace osp
