#include "osp/model/gguf_feature_keys.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "osp/base/test_error.h"

namespace osp {
namespace {

template <class T>
std::vector<std::byte> bytes_of(std::vector<T> values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Checks metadata of one key beside the sizes of a model with heads of 64 channels.
struct GgufFeatureKeys : ::testing::Test {
  std::vector<std::byte> wide = bytes_of<uint32_t>({512}), heads = bytes_of<uint32_t>({8});

  void check(const std::string& architecture, const std::string& key, GgufType type,
             const std::vector<std::byte>& bytes, size_t count = 1, bool is_array = false) const {
    GgufMetadata metadata("m.gguf");
    metadata.add(architecture + ".embedding_length", {GgufType::u32, false, 1, wide});
    metadata.add(architecture + ".attention.head_count", {GgufType::u32, false, 1, heads});
    metadata.add(key, {type, is_array, count, bytes});
    refuse_gguf_features(metadata, architecture);
  }
  void check(const std::string& architecture, const std::string& name, float value) const {
    check(architecture, architecture + "." + name, GgufType::f32, bytes_of<float>({value}));
  }
};

// The kind: a key that one architecture follows is passed over in another.
TEST_F(GgufFeatureKeys, AKeyIsFollowedInItsOwnArchitectureOnly) {
  const std::vector<std::pair<std::string, std::string>> own = {
      {"attention.sliding_window", "gemma2 gemma3 olmo2 phi3 gpt-oss"},
      {"rope.freq_base_swa", "gemma2 gemma3"},
      {"final_logit_softcapping", "gemma2 gemma3"},
      {"attn_logit_softcapping", "gemma2"},
      {"rope.scaling.attn_factor", "phi3"},
      {"rope.scaling.yarn_beta_fast", "gpt-oss"},
      {"logit_scale", "granite"},
      {"expert_gating_func", "qwen3moe olmoe gpt-oss"},
      {"attention.temperature_length", ""},
      {"expert_group_count", ""},
      {"leading_dense_block_count", ""},
      {"nextn_predict_layers", ""}};
  for (const char* architecture :
       {"llama", "qwen2", "qwen3", "olmo2", "smollm3", "gemma2", "gemma3", "phi3", "granite",
        "glm4", "seed_oss", "arcee", "ernie4_5", "qwen3moe", "olmoe", "gpt-oss"}) {
    for (const auto& [name, followers] : own) {
      const bool follows =
          (" " + followers + " ").find(std::string(" ") + architecture + " ") != std::string::npos;
      if (follows) {
        EXPECT_NO_THROW(check(architecture, name, 3)) << architecture << " " << name;
      } else {
        expect_error(ErrorCode::unsupported, {"m.gguf", std::string(architecture) + "." + name},
                     [&] { check(architecture, name, 3); });
      }
    }
  }
}

TEST_F(GgufFeatureKeys, TheScaleOfAttentionMayBeTheUsualOneButInAGemma) {
  EXPECT_NO_THROW(check("llama", "attention.scale", 0.125f));
  EXPECT_THROW(check("llama", "attention.scale", 0.1251f), Error);
  EXPECT_THROW(check("gemma3", "attention.scale", 0.125f), Error);
}

TEST_F(GgufFeatureKeys, OfAnArrayEveryElementIsNeutral) {
  const auto array = [&](const std::string& key, std::vector<float> values) {
    check("llama", key, GgufType::f32, bytes_of(values), values.size(), true);
  };
  EXPECT_NO_THROW(array("llama.swiglu_clamp_exp", {0, 0, 0}));
  EXPECT_THROW(array("llama.swiglu_clamp_exp", {0, 0, 7}), Error);
  EXPECT_NO_THROW(array("llama.residual_scale", {1, 1}));
  EXPECT_THROW(array("llama.residual_scale", {1, 0.5f}), Error);
  EXPECT_NO_THROW(array("llama.anything", {}));
}

TEST_F(GgufFeatureKeys, KeysOfOtherArchitecturesAndOfTheFileAreNotAsked) {
  const auto one = bytes_of<float>({3});
  EXPECT_NO_THROW(check("llama", "granite.logit_scale", GgufType::f32, one));
  EXPECT_NO_THROW(check("llama", "general.sampling.temp", GgufType::f32, one));
  expect_error(ErrorCode::unsupported, {"xielu.beta = 3"},
               [&] { check("llama", "xielu.beta", GgufType::f32, one); });
}

TEST_F(GgufFeatureKeys, ANumberThatIsNoneIsNotNeutral) {
  EXPECT_THROW(check("llama", "logit_scale", std::nanf("")), Error);
  EXPECT_THROW(check("llama", "attention.scale", std::nanf("")), Error);
}

}  // namespace
}  // namespace osp
