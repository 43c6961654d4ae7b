// Quantized model dirs: a Hugging Face folder in the compressed-tensors layout "pack-quantized",
// which transformers and vLLM load, and which osp reads back bit for bit.
//
// config.json says everything twice: "quantization_config" in the words of compressed-tensors, and
// "osp_quantization" with what those cannot say (which method, online transforms, free ranges).
// The differences between what osp computes and what others make of such a folder:
//   - the input of the output projection and the values have a free range here; others stretch it
//   to
//     contain 0;
//   - the Hadamard on queries and keys stands in transform_config; a loader that passes it over
//     quantizes the keys as they are;
//   - a folder whose down projections want an online Hadamard gives nonsense without it, so its
//     quant_method is "osp", which other loaders refuse instead of computing something else.
#pragma once

#include <memory>
#include <string>

#include "osp/base/json.h"
#include "osp/formats/safetensors.h"
#include "osp/model/parameters.h"
#include "osp/ptq/part_folder.h"
#include "osp/quant/activation_scales.h"
#include "osp/quant/bits.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/quantized_linear.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

// What a quantized model is beside its tensors.
struct QuantizedModelInfo {
  BitWidths bits = {};  // weights: those of the grid
  WeightGrid grid = {};
  OnlineTransforms online = {};
  ActivationScales scales = {};  // static activation scales; empty: all dynamic
  ClipRatios clips = {};         // of dynamic ones
  std::string method = "";       // "quarot+gptq"
  std::string profile = "";      // "osp-paper" or "best"
};

struct QuantizedModel {
  ParameterStore store;  // quantized layers hold the dequantized weights
  QuantizedWeights weights;
  QuantizedModelInfo info;

  // The tap that runs it: its activation and cache quantizers and online transforms.
  std::unique_ptr<FakeQuantTap> make_tap() const;
};

// Writes the tensors of all parts as model.safetensors, the files of `source_dir` that belong to
// its tokenizer, `report` as quantize.json, then config.json, all into a temporary folder beside
// `path` that is renamed at the end. Error(usage) if `path` exists and is not an empty folder,
// Error(io).
void save_quantized_model_dir(const PartFolder& parts, const ModelConfig& model,
                              const QuantizedModelInfo& info, const Json& report,
                              const std::string& source_dir, const std::string& path);

// Error(usage) if save_quantized_model_dir would refuse the path.
void check_output_dir(const std::string& path);

// Whether the folder's config.json has "osp_quantization".
bool is_quantized_model_dir(const std::string& path);

// Such a folder, opened; read part by part. Errors as load_model_dir.
class QuantizedFolder {
 public:
  explicit QuantizedFolder(const std::string& path);
  const QuantizedModelInfo& info() const { return info_; }
  const ModelConfig& config() const { return config_; }
  const Json& config_json() const { return json_; }  // without the two entries
  // The parameters of a part that are not quantized (the masters of the others are zero), and the
  // quantized layers.
  ParameterStore read(Part part, QuantizedWeights& weights) const;

 private:
  std::string weights_file_;
  Json json_;
  QuantizedModelInfo info_;
  ModelConfig config_;
  SafetensorsFile tensors_;
};

// All of it at once.
QuantizedModel load_quantized_model_dir(const std::string& path);

// Copies the files that belong to a model's tokenizer into a folder; that of a GGUF file becomes a
// tokenizer.json.
void copy_tokenizer(const std::string& source_dir, const std::string& folder);

// Static scales by input and layer, and the reverse; `where` begins the messages.
Json activation_scales_json(const ActivationScales& scales);
ActivationScales parse_activation_scales(const Json& json, const std::string& where);

// The two entries of config.json, and the reverse of the second. `where` begins the messages.
Json compressed_tensors_config(const QuantizedModelInfo& info, const ModelConfig& model);
Json quantization_info_json(const QuantizedModelInfo& info);
QuantizedModelInfo parse_quantization_info(const Json& json, const std::string& where);

}  // namespace osp
