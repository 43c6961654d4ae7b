// The keys of families whose feed-forward networks are mixtures of experts.
#include <tuple>

#include "osp/model/family_keys.h"

namespace osp::family_keys {
namespace {

// The number of experts and how tokens are sent to them. Keys of other mixtures of experts that
// would change the result are refused by name; those of the training loss change nothing here.
void routing(ConfigKeys& keys, ModelConfig& config, int64_t absent_experts) {
  // transformers 5 writes num_local_experts where published files have num_experts, or the reverse.
  const char* number = keys.has("num_local_experts") ? "num_local_experts" : "num_experts";
  for (const char* other : {"num_experts", "num_local_experts"}) keys.has(other);
  keys.integer(number, config.experts, 1, absent_experts);
  keys.integer("num_experts_per_tok", config.experts_per_token, 1, 8);
  keys.flag("norm_topk_prob", config.normalized_routing, false);
  for (const char* training : {"output_router_logits", "router_aux_loss_coef"}) keys.has(training);
  if (keys.reads()) keys.fixed("scoring_func", "softmax");
}

}  // namespace

void qwen3_moe(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 32768);
  kv_heads(keys, config, 4);
  head_size(keys, config, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  config.qk_norm = true;
  // The window, if there is one, is that of all blocks.
  bool windowed = config.window > 0;
  keys.flag("use_sliding_window", windowed, false);
  for (const char* key : {"sliding_window", "max_window_layers"}) keys.has(key);  // maybe no effect
  if (windowed) keys.window("sliding_window", config.window, 4096);
  keys.layer_types(config);
  // Experts in every decoder_sparse_step-th block, except those of mlp_only_layers.
  routing(keys, config, 128);
  keys.integer("moe_intermediate_size", config.expert_inner, 1, 768);
  keys.layers("mlp_only_layers", config, config.dense_layers);
  int64_t step = 1;
  keys.integer("decoder_sparse_step", step, 1, 1);
  if (!keys.reads()) return;
  const ModelConfig listed = config;
  config.dense_layers.clear();
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if ((layer + 1) % step != 0 || !listed.routes(layer)) config.dense_layers.push_back(layer);
  }
}

void olmoe(ConfigKeys& keys, ModelConfig& config) {
  config.qk_norm = config.qk_norm_wide = true;
  sizes(keys, config, "intermediate_size", 4096);
  config.expert_inner = config.inner;
  kv_heads(keys, config, config.heads);
  head_size(keys, config, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.optional_number("clip_qkv", config.clip_qkv);
  no_window(keys);
  routing(keys, config, 64);
}

void gpt_oss(ConfigKeys& keys, ModelConfig& config) {
  config.attention_sinks = config.expert_bias = config.routing_of_chosen = true;
  sizes(keys, config, "intermediate_size", 131072);
  config.expert_inner = config.inner;
  kv_heads(keys, config, 8);
  head_size(keys, config, 64);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, {.theta = 150000.0,
                     .parameters = {{"rope_type", "yarn"},
                                    {"factor", 32.0},
                                    {"beta_fast", 32.0},
                                    {"beta_slow", 1.0},
                                    {"truncate", false},
                                    {"original_max_position_embeddings", 4096}}});
  common(keys, config);
  config.activation = "silu";  // whatever hidden_act says: the experts have the clamped SwiGLU
  attention_bias(keys, config, true);
  int64_t window = 128;
  keys.sliding_layers(config, window, 2);
  // transformers asks for a window even where layer_types has none.
  if (!keys.reads() && config.window == 0) keys.window("sliding_window", window, window);
  const bool other_name = keys.has("num_experts") && !keys.has("num_local_experts");
  keys.integer(other_name ? "num_experts" : "num_local_experts", config.experts, 1, 128);
  keys.integer("num_experts_per_tok", config.experts_per_token, 1, 4);
  if (keys.reads())
    keys.fixed("experts_per_token", config.experts_per_token);  // published beside it
  for (const char* training : {"output_router_logits", "router_aux_loss_coef"}) keys.has(training);
  for (const auto& [key, value, absent] : {std::tuple{"swiglu_limit", &config.swiglu_limit, 7.0},
                                           {"swiglu_alpha", &config.swiglu_alpha, 1.702}}) {
    if (keys.is_null(key)) keys.unsupported(key, "null", "a number, or no key for the family's");
    keys.optional_number(key, *value, absent);
  }
}

}  // namespace osp::family_keys
