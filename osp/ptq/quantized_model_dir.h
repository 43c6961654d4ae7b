// Quantized model dirs: a Hugging Face folder in the compressed-tensors layout "pack-quantized",
// which transformers and vLLM load, and which osp reads back bit for bit. Its config.json is
// described in quantized_model_config.h.
#pragma once

#include <memory>
#include <string>

#include "osp/base/json.h"
#include "osp/formats/safetensors.h"
#include "osp/model/parameters.h"
#include "osp/ptq/part_folder.h"
#include "osp/ptq/quantized_model_config.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

struct QuantizedModel {
  ParameterStore store;  // quantized layers hold the dequantized weights
  QuantizedWeights weights;
  QuantizedWeights tables;  // codes of integer tables, whose numbers are in the store
  QuantizedModelInfo info;
  InputOffsets offsets;

  // The tap that runs it: its activation and cache quantizers and online transforms.
  std::unique_ptr<FakeQuantTap> make_tap() const;
  // The model with the same weights that needs no online transform: what it computes where
  // activations and cache run in 16 bits.
  ParameterStore plain_store() const;
};

// Writes the tensors of all parts as model.safetensors, what lies beside the weights of
// `source_dir` (model_files.h), `report` as quantize.json, then config.json, all into a temporary
// folder beside `path` that is renamed at the end. Error(usage) if `path` exists and is not an
// empty folder, Error(io).
void save_quantized_model_dir(const PartFolder& parts, const ModelConfig& model,
                              const QuantizedModelInfo& info, const Json& report,
                              const std::string& source_dir, const std::string& path);

// Error(usage) if save_quantized_model_dir would refuse the path.
void check_output_dir(const std::string& path);

// True if the folder's config.json has "osp_quantization".
bool is_quantized_model_dir(const std::string& path);

// How the weights of a model of any kind had been rounded before the rounding that results of it
// are about: HfConfig::rounded_before of a plain model, QuantizedModelInfo::rounded_before of a
// quantized one; "" if they had not.
std::string rounded_before(const std::string& path);

// config.json of a quantized model dir. Errors as load_model_config.
struct QuantizedConfig {
  QuantizedModelInfo info;
  ModelConfig model;
  Json json;  // without the two entries of quantization
};
QuantizedConfig load_quantized_config(const std::string& path);

// An opened quantized model dir, read part by part. Errors as load_model_dir.
class QuantizedFolder {
 public:
  explicit QuantizedFolder(const std::string& path);
  QuantizedFolder(const std::string& path, QuantizedConfig config);  // of the same folder
  const QuantizedModelInfo& info() const { return config_.info; }
  const ModelConfig& config() const { return config_.model; }
  const Json& config_json() const { return config_.json; }
  // The parameters of a part that are not quantized (the masters of the others are zero), and the
  // quantized layers; `tables`, if any, gets the codes of integer tables.
  ParameterStore read(Part part, QuantizedWeights& weights,
                      QuantizedWeights* tables = nullptr) const;
  InputOffsets read_offsets() const;  // of the whole model
  // Gives back the memory of what has been read from the file; it can be read again.
  void release() const;

 private:
  std::string weights_file_;
  QuantizedConfig config_;
  SafetensorsFile tensors_;
};

// Reads a whole folder at once.
QuantizedModel load_quantized_model(const QuantizedFolder& folder);
QuantizedModel load_quantized_model_dir(const std::string& path);
}  // namespace osp
