// The role of every parameter of every family, against a table of names written by hand.
#include "osp/model/parameter_role.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "osp/model/hf_config.h"
#include "osp/model/hf_family.h"
#include "osp/model/parameters.h"

namespace osp {
namespace {

// Hugging Face's names without layer numbers, and those that only our models have.
const std::map<std::string, ParameterRole> kRoleOfName = {
    {"model.embed_tokens.weight", ParameterRole::embedding},
    {"model.embed_positions.weight", ParameterRole::position_embedding},
    {"model.embed_proj.weight", ParameterRole::embedding_projection},
    {"model.embed_norm.weight", ParameterRole::embedding_norm},
    {"model.layers.N.input_layernorm.weight", ParameterRole::input_norm},
    {"model.layers.N.self_attn.q_proj.weight", ParameterRole::query},
    {"model.layers.N.self_attn.k_proj.weight", ParameterRole::key},
    {"model.layers.N.self_attn.v_proj.weight", ParameterRole::value},
    {"model.layers.N.self_attn.q_norm.weight", ParameterRole::query_norm},
    {"model.layers.N.self_attn.k_norm.weight", ParameterRole::key_norm},
    {"model.layers.N.self_attn.sinks", ParameterRole::attention_sink},
    {"model.layers.N.self_attn.o_proj.weight", ParameterRole::attention_output},
    {"model.layers.N.self_attn.branch_scale", ParameterRole::attention_branch_scale},
    {"model.layers.N.post_self_attn_layernorm.weight", ParameterRole::attention_end_norm},
    {"model.layers.N.post_attention_layernorm.weight", ParameterRole::post_attention_norm},
    {"model.layers.N.mlp.gate.weight", ParameterRole::router},
    {"model.layers.N.mlp.gate_proj.weight", ParameterRole::gate},
    {"model.layers.N.mlp.up_proj.weight", ParameterRole::up},
    {"model.layers.N.mlp.down_proj.weight", ParameterRole::down},
    {"model.layers.N.mlp.branch_scale", ParameterRole::mlp_branch_scale},
    {"model.layers.N.post_feedforward_layernorm.weight", ParameterRole::post_feedforward_norm},
    {"model.norm.weight", ParameterRole::final_norm},
    {"lm_head_proj.weight", ParameterRole::head_projection},
    {"lm_head.weight", ParameterRole::head},
};

// A small model of an architecture, with every optional parameter that its keys can ask for.
ModelConfig config_of_family(const std::string& architecture) {
  Json json = {{"architectures", {architecture}},
               {"num_hidden_layers", 2},
               {"hidden_size", 32},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 4},
               {architecture == "OPTForCausalLM" ? "ffn_dim" : "intermediate_size", 48},
               {"vocab_size", 40},
               {"max_position_embeddings", 16},
               {"tie_word_embeddings", false},
               {"attention_bias", true},
               {"mlp_bias", true},
               {"use_qkv_bias", true}};
  if (architecture == "Qwen3MoeForCausalLM" || architecture == "OlmoeForCausalLM" ||
      architecture == "GptOssForCausalLM") {
    json["num_experts"] = 3;
    json["num_experts_per_tok"] = 2;
  }
  if (architecture == "Qwen3MoeForCausalLM") {
    json["moe_intermediate_size"] = 24;
    json["mlp_only_layers"] = {0};
  }
  if (architecture == "OspForCausalLM") {
    json["osp_norm"] = "single-scale";
    json["osp_embedding_projection"] = json["osp_qk_norm"] = true;
  }
  return parse_hf_config(json, architecture).model;
}

std::vector<ModelConfig> every_family() {
  std::vector<ModelConfig> configs;
  std::string names = supported_architectures() + ", ";
  for (size_t end; (end = names.find(", ")) != std::string::npos; names.erase(0, end + 2)) {
    configs.push_back(config_of_family(names.substr(0, end)));
  }
  // The Outlier Protected block, and LayerNorm wherever a norm can be.
  ModelConfig ours;
  ours.layers = 2;
  ours.width = 32;
  ours.vocabulary = 40;
  ours.norm = "none";
  ours.qk_norm = ours.embedding_norm = ours.branch_scale = true;
  configs.push_back(resolved_config(ours));
  ours.norm = "layer";
  configs.push_back(resolved_config(ours));
  return configs;
}

// "model.layers.1.mlp.up_proj.bias" → "model.layers.N.mlp.up_proj.weight"
std::string row_name(const ParameterSpec& spec) {
  std::string name = spec.name;
  const std::string number = fmt::format(".{}.", spec.layer);
  if (spec.layer >= 0) name.replace(name.find(number), number.size(), ".N.");
  const std::string expert = fmt::format("experts.{}.", spec.expert);
  if (spec.expert >= 0) name.erase(name.find(expert), expert.size());
  if (name.ends_with(".bias")) name.replace(name.size() - 5, 5, ".weight");
  return name;
}

TEST(ParameterRole, EverySpecOfEveryFamilyHasTheRoleThatItsNameSays) {
  std::set<ParameterRole> seen;
  for (const ModelConfig& config : every_family()) {
    for (const ParameterSpec& spec : parameter_specs(config)) {
      const auto found = kRoleOfName.find(row_name(spec));
      ASSERT_NE(found, kRoleOfName.end()) << config.family << " " << spec.name;
      EXPECT_EQ(spec.role, found->second) << config.family << " " << spec.name;
      EXPECT_EQ(spec.kind == ParameterKind::bias, spec.name.ends_with(".bias")) << spec.name;
      EXPECT_EQ(spec.layer >= 0, spec.name.starts_with("model.layers.")) << spec.name;
      seen.insert(spec.role);
    }
  }
  EXPECT_EQ(seen.size(), kRoleOfName.size());  // the models above have every role
}

TEST(ParameterRole, KindOfAWeightFollowsFromItsRole) {
  for (const ModelConfig& config : every_family()) {
    for (const ParameterSpec& spec : parameter_specs(config)) {
      if (spec.kind == ParameterKind::bias) continue;
      EXPECT_EQ(spec.kind, weight_kind(spec.role)) << spec.name;
      const bool vector = spec.kind == ParameterKind::gain || spec.kind == ParameterKind::sink;
      EXPECT_EQ(vector, spec.shape.size() == 1) << spec.name;
    }
  }
}

TEST(ParameterRole, AStoreFindsEveryWeightAndBiasByRole) {
  for (const ModelConfig& config : every_family()) {
    const ParameterStore store = make_parameters(config, {});
    for (size_t i = 0; i < store.specs.size(); ++i) {
      const ParameterSpec& spec = store.specs[i];
      const bool bias = spec.kind == ParameterKind::bias;
      const int64_t found = bias ? store.find_bias(spec.role, spec.layer, spec.expert)
                                 : store.find(spec.role, spec.layer, spec.expert);
      EXPECT_EQ(found, static_cast<int64_t>(i)) << spec.name;
      EXPECT_EQ(store.find(spec.name), static_cast<int64_t>(i));
    }
    EXPECT_EQ(store.find(ParameterRole::query, config.layers), -1);
    EXPECT_EQ(store.find(ParameterRole::gate, 1, config.experts), -1);
    EXPECT_EQ(store.find_bias(ParameterRole::embedding), -1);
  }
}

}  // namespace
}  // namespace osp
