// The config.json of each family: a function names every key, in either direction (config_keys.h), and
// sets the options that no key of the family changes.
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
// A Llama whose rotary embedding has other keys.
void llama_with(ConfigKeys& keys, ModelConfig& config, const RopeKeys& rope);
void osp_own(ConfigKeys& keys, ModelConfig& config);

}  // namespace osp::family_keys
