// The parts of save_model_dir() (model_dir.h), for a model of which no process has all weights.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "osp/model/hf_family.h"
#include "osp/model/model_dir.h"

namespace osp {

// All files of a model dir but model.safetensors.
void save_model_description(const ModelConfig& config, const std::string& path,
                            const std::string& tokenizer_json, const SaveOptions& options = {});

// The tensors of model.safetensors in their order, under the names of the family that config.json
// will name, and its `__metadata__`.
std::vector<StoredTensor> written_tensors(const ParameterStore& store);
std::map<std::string, std::string> written_metadata();

}  // namespace osp
