// The config.json of each family: a function names every key, in either direction (config_keys.h),
// and sets the options that no key of the family changes.
//
// Tested by hf_config_test.cpp and tests/python/test_families.py.
#pragma once

#include "osp/model/config_keys.h"

namespace osp::family_keys {

void llama(ConfigKeys& keys, ModelConfig& config);
void mistral(ConfigKeys& keys, ModelConfig& config);
void qwen2(ConfigKeys& keys, ModelConfig& config);
void qwen3(ConfigKeys& keys, ModelConfig& config);
void smollm3(ConfigKeys& keys, ModelConfig& config);
void olmo(ConfigKeys& keys, ModelConfig& config);
void olmo2(ConfigKeys& keys, ModelConfig& config);
void gpt_neox(ConfigKeys& keys, ModelConfig& config);
void stable_lm(ConfigKeys& keys, ModelConfig& config);
void opt(ConfigKeys& keys, ModelConfig& config);
void seed_oss(ConfigKeys& keys, ModelConfig& config);
void arcee(ConfigKeys& keys, ModelConfig& config);
void ernie(ConfigKeys& keys, ModelConfig& config);
void ministral(ConfigKeys& keys, ModelConfig& config);
void ministral3(ConfigKeys& keys, ModelConfig& config);
void phi3(ConfigKeys& keys, ModelConfig& config);
void granite(ConfigKeys& keys, ModelConfig& config);
void olmo3(ConfigKeys& keys, ModelConfig& config);
void gemma2(ConfigKeys& keys, ModelConfig& config);
void gemma3(ConfigKeys& keys, ModelConfig& config);
void glm(ConfigKeys& keys, ModelConfig& config);
void glm4(ConfigKeys& keys, ModelConfig& config);
void nemotron(ConfigKeys& keys, ModelConfig& config);
void qwen3_moe(ConfigKeys& keys, ModelConfig& config);
void olmoe(ConfigKeys& keys, ModelConfig& config);
void gpt_oss(ConfigKeys& keys, ModelConfig& config);
// A Llama whose rotary embedding has other keys.
void llama_with(ConfigKeys& keys, ModelConfig& config, const RopeKeys& rope);
void osp_own(ConfigKeys& keys, ModelConfig& config);

// Groups of keys that families share; `absent` is what transformers takes for a key that
// is not there.

void sizes(ConfigKeys& keys, ModelConfig& config, const char* inner, int64_t context);
// Keys that every family except OPT has beside its sizes; osp reads no quantized weights here.
void common(ConfigKeys& keys, ModelConfig& config, bool tied = false, const char* activation = "",
            double init_std = 0.02);
// Key and value heads; null means all heads, a key that is absent the family's default.
void kv_heads(ConfigKeys& keys, ModelConfig& config, int64_t absent);
void no_window(ConfigKeys& keys);
// One key for the biases of all four projections of attention.
void attention_bias(ConfigKeys& keys, ModelConfig& config, bool absent);
// The size of a head: null is width / heads, a key that is absent the family's default.
void head_size(ConfigKeys& keys, ModelConfig& config, int64_t absent);

}  // namespace osp::family_keys
