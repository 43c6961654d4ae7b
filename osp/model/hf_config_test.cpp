#include "osp/model/hf_config.h"

#include <gtest/gtest.h>

#include <string>

#include "osp/base/fields.h"
#include "osp/base/test_error.h"

namespace osp {
namespace {

ModelConfig small() {
  ModelConfig config;
  config.layers = 3;
  config.width = 48;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_size = 16;
  config.inner = 80;
  config.vocabulary = 101;
  config.context = 64;
  config.norm_eps = 3e-6;
  config.rope_theta = 12345.5;
  config.init_std = 0.03;
  return resolved(config);
}

std::string all_fields(ModelConfig config) {
  FieldTable table;
  table.add("model", config);
  return table.to_json().dump();
}

HfConfig parse(const std::string& text) { return parse_hf_config(parse_json(text, "c"), "c"); }

TEST(HfConfig, EveryFieldSurvivesWritingAndReading) {
  for (const std::string norm : {"rms", "single-scale", "simple"}) {
    for (const bool projection : {false, true}) {
      for (const bool qk_norm : {false, true}) {
        ModelConfig config = small();
        config.norm = norm;
        config.embedding_projection = projection;
        config.qk_norm = qk_norm;
        config.tied = !projection;
        EXPECT_EQ(all_fields(parse(model_config_json(config)).model), all_fields(config));
      }
    }
  }
}

TEST(HfConfig, OnlyAPlainLlamaIsCalledOne) {
  ModelConfig config = small();
  config.norm = "rms";
  config.embedding_projection = false;
  EXPECT_EQ(architecture_name(config), "LlamaForCausalLM");
  EXPECT_EQ(model_config_json(config).find("osp_"), std::string::npos);
  ModelConfig with_norm = config, with_projection = config, with_qk_norm = config;
  with_norm.norm = "simple";
  with_projection.embedding_projection = true;
  with_qk_norm.qk_norm = true;
  for (const ModelConfig& other : {with_norm, with_projection, with_qk_norm}) {
    EXPECT_EQ(architecture_name(other), "OspForCausalLM");
  }
}

TEST(HfConfig, EndTokensAreReadAsNoneOneOrSeveral) {
  const ModelConfig config = small();
  EXPECT_TRUE(parse(model_config_json(config)).end_tokens.empty());
  EXPECT_EQ(parse(model_config_json(config, "float32", 7)).end_tokens, std::vector<int64_t>({7}));
  Json json = Json::parse(model_config_json(config));
  json["eos_token_id"] = {3, 5};
  EXPECT_EQ(parse_hf_config(json, "c").end_tokens, std::vector<int64_t>({3, 5}));
}

TEST(HfConfig, DefaultRopeIsAcceptedInBothSpellings) {
  Json json = Json::parse(model_config_json(small()));
  json.erase("rope_parameters");
  json.erase("rope_theta");
  EXPECT_EQ(parse_hf_config(json, "c").model.rope_theta, 10000.0);
  json["rope_theta"] = 500000;
  EXPECT_EQ(parse_hf_config(json, "c").model.rope_theta, 500000.0);
  json["rope_parameters"] = {{"rope_theta", 20000.0}, {"rope_type", "default"}};
  EXPECT_EQ(parse_hf_config(json, "c").model.rope_theta, 20000.0);
}

TEST(HfConfig, FeaturesThatOspDoesNotComputeAreRefusedByName) {
  const std::vector<std::pair<std::string, Json>> features = {
      {"attention_bias", true},
      {"mlp_bias", true},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"sliding_window", 4096},
      {"quantization_config", Json::object()},
      {"partial_rotary_factor", 0.5},
      {"hidden_act", "gelu"},
      {"rope_parameters", {{"rope_type", "yarn"}}}};
  for (const auto& [key, value] : features) {
    Json json = Json::parse(model_config_json(small()));
    json[key] = value;
    SCOPED_TRACE(key);
    expect_error(ErrorCode::unsupported, {key}, [&] { parse_hf_config(json, "c"); });
  }
}

}  // namespace
}  // namespace osp
