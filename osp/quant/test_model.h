// For tests only: a small random Llama as it is before quantization, and random matrices.
#pragma once

#include <ATen/ops/zeros.h>

#include "osp/base/philox.h"
#include "osp/model/parameters.h"

namespace osp {

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
  ParameterStore store = make_parameters(resolved(config), {});
  initialize_parameters(store, 3);
  return store;
}

// fp32, normal with mean 0; a pure function of its arguments.
inline at::Tensor gaussian(int64_t rows, int64_t columns, const char* name,
                           double deviation = 1.0) {
  at::Tensor x = at::zeros({rows, columns}, at::kFloat);
  RandomStream(5, name).fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0.0,
                                    deviation);
  return x;
}

}  // namespace osp
