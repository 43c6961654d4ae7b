#include "osp/model/hf_config.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "osp/base/fields.h"
#include "osp/base/test_error.h"
#include "osp/model/parameters.h"

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
  return resolved_config(config);
}

std::string all_fields(ModelConfig config) {
  FieldTable table;
  table.add("model", config);
  return table.to_json().dump();
}

HfConfig parse(const std::string& text) { return parse_hf_config(parse_json(text, "c"), "c"); }

TEST(HfConfig, EveryFieldSurvivesWritingAndReading) {
  for (const std::string norm : {"rms", "single-scale", "simple", "none"}) {
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

TEST(HfConfig, ContextsOfMillionsAreRead) {
  ModelConfig config = small();
  config.norm = "rms";
  config.context = 10'485'760;
  config.rope_theta = 3'580'165'449.0;
  const ModelConfig read = parse(model_config_json(config)).model;
  EXPECT_EQ(read.context, 10'485'760);
  EXPECT_EQ(read.rope_theta, 3'580'165'449.0);
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
  EXPECT_EQ(parse(model_config_json(config, "float32", {7})).end_tokens, std::vector<int64_t>({7}));
  EXPECT_EQ(parse(model_config_json(config, "float32", {7, 2})).end_tokens,
            std::vector<int64_t>({7, 2}));
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

TEST(HfConfig, FamiliesThatDifferFromALlamaSurviveWritingAndReading) {
  for (const std::string name :
       {"MistralForCausalLM",   "Qwen2ForCausalLM",      "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",   "OlmoForCausalLM",       "Olmo2ForCausalLM",
        "GPTNeoXForCausalLM",   "StableLmForCausalLM",   "OPTForCausalLM",
        "SeedOssForCausalLM",   "ArceeForCausalLM",      "Ernie4_5ForCausalLM",
        "MinistralForCausalLM", "Ministral3ForCausalLM", "Phi3ForCausalLM",
        "GraniteForCausalLM",   "Olmo3ForCausalLM",      "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",    "GlmForCausalLM",        "Glm4ForCausalLM",
        "NemotronForCausalLM",  "Qwen3MoeForCausalLM",   "OlmoeForCausalLM"}) {
    SCOPED_TRACE(name);
    Json json = {{"architectures", {name}},
                 {"num_hidden_layers", 4},
                 {"hidden_size", 64},
                 {"num_attention_heads", 4},
                 {"num_key_value_heads", 2},
                 {"head_dim", 16},
                 {"intermediate_size", 80},
                 {"ffn_dim", 80},
                 {"vocab_size", 101},
                 {"max_position_embeddings", 64},
                 {"use_parallel_residual", true},
                 {"use_qkv_bias", true}};
    const bool by_layer = name[0] == 'M' || name == "Olmo3ForCausalLM" || name.starts_with("Gemma");
    const bool windowed = by_layer || name[0] == 'Q';
    if (windowed) json["sliding_window"] = 8;
    if (name[0] == 'Q' || name == "MistralForCausalLM") json["use_sliding_window"] = true;
    if (name[0] == 'Q') json["max_window_layers"] = 2;
    const ModelConfig config = parse_hf_config(json, "c").model;
    EXPECT_EQ(config.family, name);
    EXPECT_EQ(config.window, windowed ? 8 : 0);
    EXPECT_EQ(architecture_name(config), name);
    EXPECT_TRUE(parse(model_config_json(config)).model == config);
  }
}

TEST(HfConfig, OptionsThatNoFamilyHasAreWrittenAsOurs) {
  ModelConfig config = small();
  config.norm = "layer";
  config.qkv_bias = config.mlp_bias = config.parallel = config.shared_norm = true;
  config.gated = false;
  config.activation = "gelu";
  config.rotary_size = 8;
  config.clip_qkv = 3.5;
  config.rope_scaling = {.type = "llama3", .factor = 8, .original_context = 32};
  config.window = 7;
  config.full_layers = {1};
  config.local_rope_theta = 77.5;
  config.unrotated_layers = {1};
  config.embedding_multiplier = 3.5;
  config.residual_multiplier = 0.22;
  config.attention_multiplier = 0.0078125;
  config.logit_divisor = 8;
  config.attention_softcap = 50;
  config.logit_softcap = 30;
  config.rope_scaling.query_growth = 0.1;
  EXPECT_EQ(architecture_name(config), "OspForCausalLM");
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
  // Experts are in the blocks of a Llama.
  config = small();
  config.experts = 5;
  config.experts_per_token = 2;
  config.expert_inner = 24;
  config.normalized_routing = true;
  config.dense_layers = {1};
  EXPECT_EQ(architecture_name(config), "OspForCausalLM");
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
  config.dense_layers = {};
  config.normalized_routing = false;
  config.routing_of_chosen = config.expert_bias = config.attention_sinks = true;
  config.swiglu_limit = 3.5;
  config.swiglu_alpha = 2;
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
}

TEST(HfConfig, PartsOfGptOssElsewhereAreRefusedByName) {
  ModelConfig config = small();
  config.attention_sinks = true;
  expect_error(ErrorCode::damaged, {"attention sinks", "mixtures of experts alone"},
               [&] { parse(model_config_json(config)); });
  config.experts = 5;
  config.experts_per_token = 2;
  config.expert_inner = 24;
  config.swiglu_limit = 7;
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
  config.dense_layers = {1};
  expect_error(ErrorCode::damaged, {"clamped SwiGLU", "without experts"},
               [&] { parse(model_config_json(config)); });
}

// The config.json of gpt-oss-20b and -120b as they were released, shortened to what decides the
// model.
TEST(HfConfig, GptOssHasThePublishedNumbersOfParameters) {
  Json json = {{"architectures", {"GptOssForCausalLM"}},
               {"attention_bias", true},
               {"experts_per_token", 4},
               {"head_dim", 64},
               {"hidden_act", "silu"},
               {"hidden_size", 2880},
               {"intermediate_size", 2880},
               {"max_position_embeddings", 131072},
               {"num_attention_heads", 64},
               {"num_experts_per_tok", 4},
               {"num_key_value_heads", 8},
               {"rms_norm_eps", 1e-05},
               {"rope_scaling",
                {{"beta_fast", 32.0},
                 {"beta_slow", 1.0},
                 {"factor", 32.0},
                 {"original_max_position_embeddings", 4096},
                 {"rope_type", "yarn"},
                 {"truncate", false}}},
               {"rope_theta", 150000},
               {"router_aux_loss_coef", 0.9},
               {"sliding_window", 128},
               {"swiglu_limit", 7.0},
               {"tie_word_embeddings", false},
               {"vocab_size", 201088}};
  for (const auto& [layers, experts, parameters] :
       {std::tuple{24, 32, 20'914'757'184}, {36, 128, 116'829'156'672}}) {
    json["num_hidden_layers"] = layers;
    json["num_local_experts"] = experts;
    const ModelConfig config = parse_hf_config(json, "c").model;
    EXPECT_EQ(count_parameters(config), parameters);
    EXPECT_EQ(config.window_of(0), 128);
    EXPECT_EQ(config.window_of(1), 0);
    EXPECT_EQ(config.window_of(layers - 1), 0);
    EXPECT_EQ(config.rope_scaling.type, "yarn");
    EXPECT_FALSE(config.rope_scaling.truncate);
    EXPECT_EQ(config.rope_theta, 150000);
    EXPECT_EQ(architecture_name(config), "GptOssForCausalLM");
    EXPECT_TRUE(parse(model_config_json(config)).model == config);
    // One shared expert is one; none, and one group of experts, change nothing.
    Json shared = json;
    shared["n_shared_experts"] = 1;
    expect_error(ErrorCode::unsupported, {"n_shared_experts", "1"},
                 [&] { parse_hf_config(shared, "c"); });
    shared["n_shared_experts"] = 0;
    shared["n_group"] = 1;
    EXPECT_TRUE(parse_hf_config(shared, "c").model == config);
    // A key that is absent has the family's value.
    Json bare = json;
    for (const char* key : {"rope_scaling", "rope_theta", "sliding_window", "swiglu_limit"})
      bare.erase(key);
    EXPECT_TRUE(parse_hf_config(bare, "c").model == config);
  }
}

// The config.json of SmolLM3-3B as it was released, shortened to what decides the model.
TEST(HfConfig, SmolLM3HasNoRotationInEveryFourthLayer) {
  Json json = {{"architectures", {"SmolLM3ForCausalLM"}},
               {"model_type", "smollm3"},
               {"hidden_size", 2048},
               {"intermediate_size", 11008},
               {"num_hidden_layers", 36},
               {"num_attention_heads", 16},
               {"num_key_value_heads", 4},
               {"vocab_size", 128256},
               {"max_position_embeddings", 65536},
               {"max_window_layers", 28},
               {"mlp_bias", false},
               {"attention_bias", false},
               {"no_rope_layer_interval", 4},
               {"rms_norm_eps", 1e-6},
               {"rope_scaling", nullptr},
               {"rope_theta", 5000000.0},
               {"sliding_window", nullptr},
               {"use_sliding_window", false}};
  const ModelConfig config = parse_hf_config(json, "c").model;
  EXPECT_EQ(config.unrotated_layers, (std::vector<int64_t>{3, 7, 11, 15, 19, 23, 27, 31, 35}));
  EXPECT_TRUE(config.rotates(2));
  EXPECT_FALSE(config.rotates(3));
  EXPECT_TRUE(config.tied);  // the family's default
  EXPECT_EQ(config.rope_theta, 5000000.0);
  EXPECT_EQ(architecture_name(config), "SmolLM3ForCausalLM");
  json.erase("rope_theta");
  EXPECT_EQ(parse_hf_config(json, "c").model.rope_theta, 2000000.0);
  // The list decides where it is there, as far as there are layers.
  json["no_rope_layers"] = Json::array();
  for (int layer = 0; layer < 40; ++layer) json["no_rope_layers"].push_back(layer == 2 ? 0 : 1);
  EXPECT_EQ(parse_hf_config(json, "c").model.unrotated_layers, (std::vector<int64_t>{2}));
  for (const Json& wrong : {Json({1, 0}), Json("all"), Json({{"0", 1}})}) {
    json["no_rope_layers"] = wrong;
    expect_error(ErrorCode::damaged, {"no_rope_layers"}, [&] { parse_hf_config(json, "c"); });
  }
  json["no_rope_layers"] = std::vector<int>(36, 2);
  expect_error(ErrorCode::damaged, {"no_rope_layers", "layer 0"},
               [&] { parse_hf_config(json, "c"); });
}

TEST(HfConfig, EveryScaledRotaryEmbeddingSurvivesWritingAndReading) {
  ModelConfig config = small();
  config.norm = "rms";
  config.embedding_projection = false;
  const std::vector<double> factors = {1, 1.25, 1.5, 2, 3, 4, 5, 6.5};
  const std::vector<RopeScaling> scalings = {
      {.type = "linear", .factor = 2},
      {.type = "dynamic", .factor = 2, .original_context = config.context},
      {.type = "yarn", .factor = 4, .original_context = 16},
      {.type = "yarn",
       .factor = 4,
       .original_context = 16,
       .beta_fast = 20,
       .beta_slow = 0.5,
       .truncate = false,
       .mscale = 0.7,
       .mscale_all_dim = 1.3},
      {.type = "yarn", .factor = 4, .original_context = 16, .attention_factor = 1.1},
      {.type = "longrope",
       .factor = 3,
       .original_context = 16,
       .short_factor = factors,
       .long_factor = factors,
       .attention_factor = 1.2}};
  for (const RopeScaling& scaling : scalings) {
    SCOPED_TRACE(scaling.type);
    config.rope_scaling = scaling;
    EXPECT_EQ(architecture_name(config), "LlamaForCausalLM");
    EXPECT_TRUE(parse(model_config_json(config)).model == config);
    ModelConfig ours = config;
    ours.norm = "simple";
    EXPECT_TRUE(parse(model_config_json(ours)).model == ours);
  }
}

// Phi-4-mini's keys as they were released, shortened to what decides the model.
TEST(HfConfig, Phi3RotatesAPartOfEachHeadByTheLengthOfTheText) {
  const std::vector<double> factors(48, 1.5);
  Json json = {{"architectures", {"Phi3ForCausalLM"}},
               {"hidden_size", 3072},
               {"intermediate_size", 8192},
               {"num_hidden_layers", 32},
               {"num_attention_heads", 24},
               {"num_key_value_heads", 8},
               {"vocab_size", 200064},
               {"max_position_embeddings", 131072},
               {"original_max_position_embeddings", 4096},
               {"partial_rotary_factor", 0.75},
               {"rope_theta", 10000.0},
               {"sliding_window", 262144},
               {"tie_word_embeddings", true},
               {"rope_scaling",
                {{"type", "longrope"}, {"long_factor", factors}, {"short_factor", factors}}}};
  const ModelConfig config = parse_hf_config(json, "c").model;
  EXPECT_EQ(config.rotary_size, 96);
  EXPECT_EQ(config.rope_scaling.factor, 32.0);
  EXPECT_EQ(config.rope_scaling.original_context, 4096);
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
  ModelConfig ours = config;  // with an option that the family cannot say
  ours.mlp_bias = true;
  ours.family = "";
  EXPECT_EQ(architecture_name(ours), "OspForCausalLM");
  EXPECT_TRUE(parse(model_config_json(ours)).model == ours);
}

TEST(HfConfig, WindowsByLayerAreAListOfTheFullLayers) {
  Json json = {{"architectures", {"Gemma3ForCausalLM"}},
               {"hidden_size", 64},
               {"intermediate_size", 128},
               {"num_hidden_layers", 13},
               {"num_attention_heads", 4},
               {"vocab_size", 100},
               {"query_pre_attn_scalar", 168},
               {"sliding_window", 512}};
  const ModelConfig config = parse_hf_config(json, "c").model;
  EXPECT_EQ(config.full_layers, (std::vector<int64_t>{5, 11}));
  EXPECT_EQ(config.window_of(4), 512);
  EXPECT_EQ(config.window_of(5), 0);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.local_rope_theta, 1e4);
  EXPECT_TRUE(config.rotates_locally(4) && !config.rotates_locally(5));
  const Json written = Json::parse(model_config_json(config));
  EXPECT_TRUE(written.at("query_pre_attn_scalar").is_number_integer());
  EXPECT_TRUE(parse_hf_config(written, "c").model == config);
  json["layer_types"] = std::vector<std::string>(13, "full_attention");
  EXPECT_EQ(parse_hf_config(json, "c").model.window, 0);
}

TEST(HfConfig, OutlierProtectedBlocksAreWrittenAsOurs) {
  ModelConfig config = small();
  config.norm = "none";
  config.embedding_norm = config.branch_scale = true;
  config = resolved_config(config);
  EXPECT_EQ(architecture_name(config), "OspForCausalLM");
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
  config.branch_scale_init = 0.2;
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
  Json json = Json::parse(model_config_json(config));
  json["osp_norm_after"] = true;
  expect_error(ErrorCode::damaged, {"none"}, [&] { parse_hf_config(json, "c"); });
}

TEST(HfConfig, OptionsThatTheFamilyCannotSayAreNotLost) {
  ModelConfig config = small();
  config.family = "Qwen3ForCausalLM";
  config.norm = "rms";
  config.embedding_projection = false;
  config.qk_norm = true;
  EXPECT_EQ(architecture_name(config), "Qwen3ForCausalLM");
  config.mlp_bias = true;
  EXPECT_EQ(architecture_name(config), "OspForCausalLM");
  config.family = "";
  EXPECT_TRUE(parse(model_config_json(config)).model == config);
}

TEST(HfConfig, FeaturesThatOspDoesNotComputeAreRefusedByName) {
  const std::vector<std::pair<std::string, Json>> features = {
      {"rope_scaling", {{"type", "axial"}, {"factor", 2.0}}},
      {"sliding_window", 4096},
      {"quantization_config", Json::object()},
      {"partial_rotary_factor", 0.5},
      {"hidden_act", "quick_gelu"},
      {"rope_parameters", {{"rope_type", "proportional"}}}};
  for (const auto& [key, value] : features) {
    Json json = Json::parse(model_config_json(small()));
    json[key] = value;
    SCOPED_TRACE(key);
    expect_error(ErrorCode::unsupported, {key}, [&] { parse_hf_config(json, "c"); });
  }
}

}  // namespace
}  // namespace osp
