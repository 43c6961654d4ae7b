#include "osp/model/family_keys.h"

#include <cmath>

namespace osp::family_keys {

void sizes(ConfigKeys& keys, ModelConfig& config, const char* inner, int64_t context) {
  keys.size("num_hidden_layers", "layers", config.layers);
  keys.size("hidden_size", "width", config.width);
  keys.size("num_attention_heads", "heads", config.heads);
  keys.size(inner, "inner", config.inner);
  keys.size("vocab_size", "vocabulary", config.vocabulary);
  keys.size("max_position_embeddings", "context", config.context, context);
}

void common(ConfigKeys& keys, ModelConfig& config, bool tied, const char* activation,
            double init_std) {
  keys.flag("tie_word_embeddings", config.tied, tied);
  keys.number("initializer_range", "init_std", config.init_std, init_std);
  const char* usual = config.gated ? "silu" : "gelu";
  keys.activation("hidden_act", config.activation, *activation != '\0' ? activation : usual);
  keys.fixed("quantization_config", nullptr);
}

void kv_heads(ConfigKeys& keys, ModelConfig& config, int64_t absent) {
  const char* key = "num_key_value_heads";
  keys.size(key, "kv_heads", config.kv_heads, keys.is_null(key) ? config.heads : absent);
}

void no_window(ConfigKeys& keys) {
  keys.fixed("sliding_window", nullptr);
  keys.fixed("layer_types", nullptr);
}

void attention_bias(ConfigKeys& keys, ModelConfig& config, bool absent) {
  bool biased = config.qkv_bias && config.output_bias;
  keys.flag("attention_bias", biased, absent);
  if (keys.reads()) config.qkv_bias = config.output_bias = biased;
}

void head_size(ConfigKeys& keys, ModelConfig& config, int64_t absent) {
  const char* key = "head_dim";
  keys.size(key, "head_size", config.head_size, keys.is_null(key) ? 0 : absent);
}

void llama_with(ConfigKeys& keys, ModelConfig& config, const RopeKeys& rope) {
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config, rope);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  no_window(keys);
}

void llama(ConfigKeys& keys, ModelConfig& config) { llama_with(keys, config, {}); }

void mistral(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", int64_t{4096} * 32);
  kv_heads(keys, config, 8);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  keys.window("sliding_window", config.window, 4096);
  keys.has("use_sliding_window");  // passed over by the family: the window is there or not
  keys.layer_types(config);
}

// The sliding window of Qwen 2 and 3: in the blocks from max_window_layers on.
void late_window(ConfigKeys& keys, ModelConfig& config) {
  bool windowed = config.window > 0;
  keys.flag("use_sliding_window", windowed, false);
  int64_t window = config.window;
  for (const char* key : {"sliding_window", "max_window_layers"}) keys.has(key);  // maybe no effect
  if (windowed) {
    keys.window("sliding_window", window, 4096);
    keys.integer("max_window_layers", config.first_window_layer, 0, 28);
  }
  if (!keys.reads()) {
    if (!config.full_layers.empty()) keys.write_layer_types(config);
    return;
  }
  if (!windowed) window = 0;
  if (keys.has("layer_types")) return keys.windows_by_layer(window, config);
  config.window = window;
  config.full_layers.clear();
  if (window == 0) config.first_window_layer = 0;
}

void qwen2(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 32768);
  kv_heads(keys, config, 32);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  config.qkv_bias = true;
  late_window(keys, config);
}

void qwen3(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 32768);
  kv_heads(keys, config, 32);
  keys.size("head_dim", "head_size", config.head_size, 128);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  config.qk_norm = true;
  late_window(keys, config);
}

void smollm3(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 11008);
  kv_heads(keys, config, 4);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config, {.theta = 2e6});
  common(keys, config, true);
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  keys.unrotated_layers(config);
  keys.fixed("use_sliding_window", false);
  for (const char* key : {"sliding_window", "max_window_layers"}) keys.has(key);  // no effect
  keys.layer_types(config);
}

void olmo(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer-plain";
  config.norm_eps = 1e-5;  // fixed in the family
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.optional_number("clip_qkv", config.clip_qkv);
  no_window(keys);
}

namespace {

// Keys that OLMo 2 and 3 have in common: all but the windows.
void norms_after_branches(ConfigKeys& keys, ModelConfig& config, const RopeKeys& rope) {
  config.norm_after = true;
  config.qk_norm = config.qk_norm_wide = true;
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, rope);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.fixed("clip_qkv", nullptr);
}

}  // namespace

void olmo2(ConfigKeys& keys, ModelConfig& config) {
  norms_after_branches(keys, config, {});
  no_window(keys);
}

void gpt_neox(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer";
  config.gated = false;
  config.mlp_bias = true;
  sizes(keys, config, "intermediate_size", 2048);
  config.kv_heads = config.heads;
  keys.number("layer_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.partial = 0.25, .theta_key = "rotary_emb_base", .partial_key = "rotary_pct"});
  common(keys, config);
  attention_bias(keys, config, true);
  keys.flag("use_parallel_residual", config.parallel, true);
}

void stable_lm(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer";
  sizes(keys, config, "intermediate_size", 4096);
  kv_heads(keys, config, 32);
  keys.number("layer_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.partial = 0.25});
  common(keys, config);
  keys.flag("use_qkv_bias", config.qkv_bias, false);
  keys.fixed("qk_layernorm", false);
  keys.flag("use_parallel_residual", config.parallel, false);
  config.shared_norm = config.parallel;
}

void opt(ConfigKeys& keys, ModelConfig& config) {
  config.norm_eps = 1e-5;  // fixed in the family
  config.gated = false;
  config.learned_positions = true;
  config.position_offset = 2;
  sizes(keys, config, "ffn_dim", 2048);
  config.kv_heads = config.heads;
  keys.flag("tie_word_embeddings", config.tied, true);
  keys.number("init_std", "init_std", config.init_std, 0.02);
  keys.activation("activation_function", config.activation, "relu");
  keys.fixed("quantization_config", nullptr);
  keys.fixed("do_layer_norm_before", true);
  keys.fixed("_remove_final_layer_norm", false);
  keys.fixed("word_embed_proj_dim", config.width);
  bool biased = config.qkv_bias && config.output_bias && config.mlp_bias;
  keys.flag("enable_bias", biased, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = biased;
  bool affine = config.norm == "layer";
  keys.flag("layer_norm_elementwise_affine", affine, true);
  config.norm = affine ? "layer" : "layer-plain";
}

void seed_oss(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 524288);
  kv_heads(keys, config, 8);
  head_size(keys, config, 128);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  keys.flag("attention_bias", config.qkv_bias, true);
  keys.flag("attention_out_bias", config.output_bias, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  no_window(keys);
}

void arcee(ConfigKeys& keys, ModelConfig& config) {
  config.gated = false;
  sizes(keys, config, "intermediate_size", 4096);
  kv_heads(keys, config, config.heads);
  head_size(keys, config, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config);
  common(keys, config, false, "relu2");
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  no_window(keys);
}

void ernie(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 131072);
  kv_heads(keys, config, 2);
  head_size(keys, config, 128);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.theta = 500000.0});
  common(keys, config, true);
  bool biased = config.qkv_bias && config.output_bias && config.mlp_bias;
  keys.flag("use_bias", biased, false);
  if (keys.reads()) config.qkv_bias = config.output_bias = config.mlp_bias = biased;
  no_window(keys);
}

void ministral(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", int64_t{4096} * 32);
  kv_heads(keys, config, 8);
  head_size(keys, config, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  keys.sliding_layers(config, 4096, 0);
}

void ministral3(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 262144);
  kv_heads(keys, config, 8);
  head_size(keys, config, 128);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.query_growth = true,
                     .parameters = {{"rope_type", "yarn"},
                                    {"rope_theta", 1e6},
                                    {"factor", 16.0},
                                    {"original_max_position_embeddings", 16384},
                                    {"mscale", 1.0},
                                    {"mscale_all_dim", 1.0},
                                    {"llama_4_scaling_beta", 0.1}}});
  common(keys, config);
  keys.window("sliding_window", config.window, 0);
  keys.layer_types(config);
}

void phi3(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 4096);
  kv_heads(keys, config, config.heads);
  head_size(keys, config, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.partial = 1.0, .original_context = 4096, .longrope_alone = true});
  common(keys, config);
  keys.has("attention_bias");  // passed over by transformers
  keys.window("sliding_window", config.window, 0);
  keys.layer_types(config);
}

void granite(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  head_size(keys, config, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  keys.factor("embedding_multiplier", config.embedding_multiplier, 1.0);
  keys.factor("residual_multiplier", config.residual_multiplier, 1.0);
  keys.factor("attention_multiplier", config.attention_multiplier, 1.0);
  keys.factor("logits_scaling", config.logit_divisor, 1.0);
  no_window(keys);
}

void olmo3(ConfigKeys& keys, ModelConfig& config) {
  norms_after_branches(keys, config, {.theta = 500000.0, .local_theta = 500000.0});
  keys.sliding_layers(config, 4096, 4);
}

// Keys that Gemma 2 and 3 have in common; the rotary embedding and the caps differ.
void gemma(ConfigKeys& keys, ModelConfig& config, int64_t context, const RopeKeys& rope) {
  config.norm_around = true;
  sizes(keys, config, "intermediate_size", context);
  kv_heads(keys, config, 4);
  head_size(keys, config, 256);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config, rope);
  keys.flag("tie_word_embeddings", config.tied, true);
  keys.number("initializer_range", "init_std", config.init_std, 0.02);
  keys.has("hidden_act");  // there beside the other in old files, passed over by transformers
  keys.activation("hidden_activation", config.activation, "gelu_pytorch_tanh");
  keys.fixed("quantization_config", nullptr);
  keys.fixed("use_bidirectional_attention", false);
  attention_bias(keys, config, false);
  config.embedding_multiplier = std::sqrt(static_cast<double>(config.width));
  // The key has a number whose root divides the logits.
  double divided = config.attention_multiplier > 0
                       ? 1.0 / (config.attention_multiplier * config.attention_multiplier)
                       : 0.0;
  if (1.0 / std::sqrt(std::round(divided)) == config.attention_multiplier) {
    divided = std::round(divided);
  }
  keys.factor("query_pre_attn_scalar", divided, 256.0);
  if (keys.reads()) config.attention_multiplier = 1.0 / std::sqrt(divided);
}

void gemma2(ConfigKeys& keys, ModelConfig& config) {
  gemma(keys, config, 8192, {});
  keys.optional_number("attn_logit_softcapping", config.attention_softcap, 50.0);
  keys.optional_number("final_logit_softcapping", config.logit_softcap, 30.0);
  keys.sliding_layers(config, 4096, 2);
}

void gemma3(ConfigKeys& keys, ModelConfig& config) {
  config.qk_norm = true;
  gemma(keys, config, 131072,
        {.theta = 1e6, .local_theta = 10000.0, .local_key = "rope_local_base_freq"});
  keys.fixed("attn_logit_softcapping", nullptr);
  keys.optional_number("final_logit_softcapping", config.logit_softcap);
  int64_t interval = 6;
  if (keys.reads()) keys.integer("sliding_window_pattern", interval, 1, 6);
  keys.has("_sliding_window_pattern");  // beside layer_types, which say the same
  keys.sliding_layers(config, 4096, interval);
}

void glm(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 131072);
  kv_heads(keys, config, 2);
  head_size(keys, config, 128);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1.5625e-7);
  keys.rope(config, {.partial = 0.5});
  common(keys, config);
  keys.flag("attention_bias", config.qkv_bias, true);
  no_window(keys);
}

void glm4(ConfigKeys& keys, ModelConfig& config) {
  config.norm_around = true;
  glm(keys, config);
}

void nemotron(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer";
  config.gated = false;
  sizes(keys, config, "intermediate_size", 4096);
  kv_heads(keys, config, config.heads);
  head_size(keys, config, 0);
  keys.number("norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.partial = 0.5});
  common(keys, config, false, "relu2", 0.0134);
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  no_window(keys);
}

}  // namespace osp::family_keys
