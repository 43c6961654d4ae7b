// For tests only: SmoothQuant and AWQ on a whole model, and a quantized model as parts.
#pragma once

#include <string>
#include <vector>

#include "osp/base/philox.h"
#include "osp/model/model_source.h"
#include "osp/model/transformer.h"
#include "osp/ptq/awq.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/quantized_model_tensors.h"
#include "osp/ptq/smooth_quant.h"

namespace osp {

// Statistics of the inputs of all blocks on calibration windows.
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
                           const QuantizedModelInfo& info, const std::string& path,
                           const InputOffsets& offsets = {}) {
  const PartFolder parts(path, {}, false);
  const auto source = source_of(store);
  for (int64_t part = -1; part < store.config.layers; ++part) {
    ActivationScales scales = info.scales;
    std::erase_if(scales, [&](const auto& entry) { return entry.first.second != part; });
    TensorBuffers tensors;
    add_part(tensors, source->read(part), weights, scales, info.bits.activations);
    InputOffsets own = offsets;
    std::erase_if(own, [&](const auto& entry) { return entry.first.second != part; });
    add_offsets(tensors, own);
    parts.save(part, tensors, Json::object());
  }
  return parts;
}

}  // namespace osp
