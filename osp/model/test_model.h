// A small random Llama as it is before quantization, for tests only.
#pragma once

#include "osp/model/parameters.h"

namespace osp {

// Two blocks of width 32 with four query heads over two of keys and values; inner size 48.
inline ModelConfig grouped_query_config(int64_t vocabulary, int64_t context) {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 4;
  config.kv_heads = 2;
  config.inner = 48;
  config.vocabulary = vocabulary;
  config.context = context;
  return config;
}

// A model with initial weights, a pure function of its arguments.
inline ParameterStore initialized_model(const ModelConfig& config, uint64_t seed) {
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, seed);
  return store;
}

// Two blocks of width 32 with two query heads, 50 tokens, context 24; EmbProj is fused already.
inline ParameterStore small_fused_model(int64_t kv_heads) {
  ModelConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 2;
  config.kv_heads = kv_heads;
  config.inner = 64;
  config.vocabulary = 50;
  config.context = 24;
  config.norm = "rms";
  config.embedding_projection = false;
  config.init_std = 0.15;
  return initialized_model(config, 3);
}

// small_fused_model(1) with experts in both blocks or, with `dense_first`, in the second alone:
// five of inner size 16, two per token.
inline ParameterStore small_expert_model(bool dense_first = false) {
  ModelConfig config = small_fused_model(/*kv_heads=*/1).config;
  config.experts = 5;
  config.experts_per_token = 2;
  config.expert_inner = 16;
  config.normalized_routing = true;
  if (dense_first) config.dense_layers = {0};
  return initialized_model(config, 3);
}

}  // namespace osp
