// The entries of config.json of a quantized model dir, which says everything twice:
// "quantization_config" in the words of compressed-tensors, and "osp_quantization" with what those
// cannot say (the method, online transforms, free ranges).
//
// Either other programs compute the same logits from such a folder, or they refuse it:
//   - A folder with what compressed-tensors cannot say (why_osp_alone) has an architecture and a
//     model type that no other program knows, and a quantization_status that compressed-tensors
//     refuses, for those that choose the model's class themselves. An unknown quant_method would
//     not do: transformers warns and leaves every linear layer at random numbers.
//   - The input of the output projection has a free range here; others stretch it to contain 0,
//     which is the same unless all channels of a head (or a group of it) have one sign.
//   - Zero points of weights have strategy "block" with blocks of one row: compressed-tensors packs
//     those of the strategies "group" and "channel", and its loader does not expect them packed.
//
// Tested by quantized_model_dir_test.cpp and tests/python/test_quantize_formats.py.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/model/config.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/tables.h"
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
  TableType tables = TableType::fp32;  // integers or not: bf16 and fp32 are told by the tensors
  std::string method = "";             // "quarot+gptq"
  std::string profile = "";            // "osp-paper" or "best"
  // How the weights had been rounded before this method rounded them (HfConfig::rounded_before).
  std::string rounded_before = "";
};

// How osp rounded the weights, for people and results: "osp quantize, gptq, 4 bits, groups of 128;
// before that …".
std::string quantization_text(const QuantizedModelInfo& info);

// The part of the model for which it runs in osp alone, for a message ("its queries and keys …");
// "" if other programs compute the same.
std::string why_osp_alone(const QuantizedModelInfo& info, const ModelConfig& model);

// Channels of the input of the linear layers that read `point`.
int64_t columns_at(const ModelConfig& model, TapPoint point, int64_t layer);

// The name of a linear layer's input in files: "attention_input".
std::string input_name(TapPoint point);

// Static scales by input and layer as JSON, and the reverse; `where` begins the messages.
Json activation_scales_json(const ActivationScales& scales);
ActivationScales parse_activation_scales(const Json& json, const std::string& where);

// The entry "quantization_config".
Json compressed_tensors_config(const QuantizedModelInfo& info, const ModelConfig& model);

// Adds both entries to a config.json, and hides the architecture where osp alone runs the model.
void add_quantization(Json& config, const QuantizedModelInfo& info, const ModelConfig& model);
// The reverse: the config.json without the entries, as that of a model that is not quantized.
// Error(damaged) if it has none, naming `where`.
Json without_quantization(Json config, const std::string& where);

// The entry "osp_quantization", and the reverse; `where` begins the messages.
Json quantization_info_json(const QuantizedModelInfo& info);
QuantizedModelInfo parse_quantization_info(const Json& json, const std::string& where);

}  // namespace osp
