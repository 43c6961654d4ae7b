// The keys of our own format: a Llama's and those of every option that a Llama does not have.
#include "osp/model/family_keys.h"

namespace osp {
namespace {

// Options that only our own format can say; keys of a Llama's values are not written.
void osp_option(ConfigKeys& keys, const char* key, bool& value, bool absent) {
  if (keys.reads() || value != absent) keys.flag(key, value, absent);
}
void osp_option(ConfigKeys& keys, const char* key, int64_t& value) {
  if (keys.reads() || value != 0) keys.integer(key, value, 0, 0);
}

void osp_option(ConfigKeys& keys, const char* key, double& value, double absent) {
  if (keys.reads() || value != absent) keys.factor(key, value, absent);
}

}  // namespace

void family_keys::osp_own(ConfigKeys& keys, ModelConfig& config) {
  RopeKeys rope;
  if (keys.reads()) keys.integer("osp_rotary_size", rope.channels, 0, 0);
  llama_with(keys, config, rope);
  keys.text("osp_norm", config.norm,
            {"rms", "single-scale", "simple", "none", "layer", "layer-plain"}, "");
  keys.flag("osp_embedding_projection", config.embedding_projection, {});
  keys.flag("osp_qk_norm", config.qk_norm, {});
  osp_option(keys, "osp_embedding_norm", config.embedding_norm, false);
  osp_option(keys, "osp_branch_scale", config.branch_scale, false);
  if (config.branch_scale) {
    keys.number("osp_branch_scale_init", "branch_scale_init", config.branch_scale_init, 0.0);
  }
  osp_option(keys, "osp_norm_after", config.norm_after, false);
  osp_option(keys, "osp_norm_around", config.norm_around, false);
  osp_option(keys, "osp_parallel", config.parallel, false);
  osp_option(keys, "osp_shared_norm", config.shared_norm, false);
  osp_option(keys, "osp_qk_norm_wide", config.qk_norm_wide, false);
  osp_option(keys, "osp_gated", config.gated, true);
  const bool both = config.qkv_bias && config.output_bias;  // as attention_bias says
  osp_option(keys, "osp_qkv_bias", config.qkv_bias, both);
  osp_option(keys, "osp_output_bias", config.output_bias, both);
  if (keys.reads() || config.clip_qkv > 0) keys.optional_number("osp_clip_qkv", config.clip_qkv);
  int64_t rotary = config.rotary_size == config.head_size ? 0 : config.rotary_size;
  osp_option(keys, "osp_rotary_size", rotary);
  if (keys.reads()) config.rotary_size = rotary;
  osp_option(keys, "osp_learned_positions", config.learned_positions, false);
  osp_option(keys, "osp_position_offset", config.position_offset);
  osp_option(keys, "osp_window", config.window);
  osp_option(keys, "osp_first_window_layer", config.first_window_layer);
  keys.layers("osp_full_layers", config, config.full_layers);
  osp_option(keys, "osp_local_rope_theta", config.local_rope_theta, 0.0);
  keys.layers("osp_unrotated_layers", config, config.unrotated_layers);
  osp_option(keys, "osp_embedding_multiplier", config.embedding_multiplier, 1.0);
  osp_option(keys, "osp_residual_multiplier", config.residual_multiplier, 1.0);
  osp_option(keys, "osp_attention_multiplier", config.attention_multiplier, 0.0);
  osp_option(keys, "osp_logit_divisor", config.logit_divisor, 1.0);
  osp_option(keys, "osp_attention_softcap", config.attention_softcap, 0.0);
  osp_option(keys, "osp_logit_softcap", config.logit_softcap, 0.0);
  osp_option(keys, "osp_attention_sinks", config.attention_sinks, false);
  osp_option(keys, "osp_experts", config.experts);
  osp_option(keys, "osp_experts_per_token", config.experts_per_token);
  osp_option(keys, "osp_expert_inner", config.expert_inner);
  osp_option(keys, "osp_normalized_routing", config.normalized_routing, false);
  osp_option(keys, "osp_routing_of_chosen", config.routing_of_chosen, false);
  osp_option(keys, "osp_expert_bias", config.expert_bias, false);
  osp_option(keys, "osp_swiglu_limit", config.swiglu_limit, 0.0);
  osp_option(keys, "osp_swiglu_alpha", config.swiglu_alpha, 1.702);
  keys.layers("osp_dense_layers", config, config.dense_layers);
  osp_option(keys, "osp_query_growth", config.rope_scaling.query_growth, 0.0);
  if (config.rope_scaling.query_growth > 0) {
    keys.integer("osp_query_context", config.rope_scaling.original_context, 1, 8192);
  }
}

}  // namespace osp
