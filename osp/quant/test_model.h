// For tests only: a small random Llama as it is before quantization, random matrices, and methods
// applied to all of a model.
#pragma once

#include <ATen/ops/zeros.h>

#include <string>
#include <vector>

#include "osp/base/philox.h"
#include "osp/model/model_source.h"
#include "osp/model/transformer.h"
#include "osp/quant/awq.h"
#include "osp/quant/quantized_model_dir.h"
#include "osp/quant/quantized_model_tensors.h"
#include "osp/quant/smooth_quant.h"

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

// What calibration windows show of the inputs of all blocks.
inline ChannelStatisticsTap statistics_of(const ParameterStore& store, const at::Tensor& windows_NT,
                                          int64_t kept_rows) {
  ChannelStatisticsTap tap(kept_rows, windows_NT.numel());
  ForwardOptions options;
  options.tap = &tap;
  forward_hidden(store, windows_NT, options);
  return tap;
}

inline void smooth_quant_all(ParameterStore& store, const at::Tensor& windows_NT,
                             const SmoothQuantOptions& options = {}) {
  const ChannelStatisticsTap seen = statistics_of(store, windows_NT, 1);
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    smooth_quant_block(store, layer, seen, options);
  }
}

inline std::vector<AwqChoice> awq_all(ParameterStore& store, const at::Tensor& windows_NT,
                                      const AwqOptions& options = {}) {
  const ChannelStatisticsTap seen = statistics_of(store, windows_NT, kAwqTokens);
  std::vector<AwqChoice> choices;
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    for (const AwqChoice& choice : awq_block(store, layer, seen, options))
      choices.push_back(choice);
  }
  return choices;
}

// The parts of a model with these quantized layers, below `path`.
inline PartFolder parts_of(const ParameterStore& store, const QuantizedWeights& weights,
                           const QuantizedModelInfo& info, const std::string& path) {
  const PartFolder parts(path, {}, false);
  const auto source = source_of(store);
  for (int64_t part = -1; part < store.config.layers; ++part) {
    ActivationScales scales = info.scales;
    std::erase_if(scales, [&](const auto& entry) { return entry.first.second != part; });
    TensorBuffers tensors;
    add_part(tensors, source->read(part), weights, scales, info.bits.activations);
    parts.save(part, tensors, Json::object());
  }
  return parts;
}

}  // namespace osp
