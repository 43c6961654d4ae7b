// The entries of config.json of a quantized model dir, which says everything twice:
// "quantization_config" in the words of compressed-tensors, and "osp_quantization" with what those
// cannot say (the method, online transforms, free ranges).
//
// Differences between what osp computes and what other programs make of such a folder:
//   - the input of the output projection and the values have a free range here; others stretch it
//     to contain 0;
//   - the Hadamard on queries and keys stands in transform_config; a loader that ignores it
//     quantizes the keys as they are;
//   - a folder whose down projections need an online Hadamard gives nonsense without it, so its
//     quant_method is "osp", which other loaders refuse instead of computing something else;
//   - so is that of a folder with offsets of activations, which those terms cannot hold, and which
//     the accuracy depends on. Groups of activations can be held (strategy "group").
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/model/config.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

// Everything about a quantized model but its tensors.
struct QuantizedModelInfo {
  BitWidths bits = {};  // weights: those of the grid
  WeightGrid grid = {};
  OnlineTransforms online = {};
  ActivationScales scales = {};               // static activation scales; empty: all dynamic
  ClipRatios clips = {};                      // of dynamic ones
  ActivationGroups groups = {};               // of dynamic ones
  MeanOffset mean_offset = MeanOffset::none;  // inputs that have an offset (their tensors)
  std::string method = "";                    // "quarot+gptq"
  std::string profile = "";                   // "osp-paper" or "best"
};

// The name of a linear layer's input in files: "attention_input".
std::string input_name(TapPoint point);

// Static scales by input and layer as JSON, and the reverse; `where` begins the messages.
Json activation_scales_json(const ActivationScales& scales);
ActivationScales parse_activation_scales(const Json& json, const std::string& where);

// The entry "quantization_config".
Json compressed_tensors_config(const QuantizedModelInfo& info, const ModelConfig& model);

// The entry "osp_quantization", and the reverse; `where` begins the messages.
Json quantization_info_json(const QuantizedModelInfo& info);
QuantizedModelInfo parse_quantization_info(const Json& json, const std::string& where);

}  // namespace osp
