// Model dirs: Hugging Face folders (config.json, model.safetensors or a sharded index,
// tokenizer.json), read and written; EmbProj and SSNorm fused into a plain Llama.
#pragma once

#include <string>

#include "osp/model/parameters.h"

namespace osp {

// Reads LlamaForCausalLM or OspForCausalLM into a store without gradients. Missing or extra tensors,
// wrong shapes, types other than F32/BF16/F16: Error(damaged/unsupported) naming tensor and file.
// `path` may also be a checkpoint folder (its model part is itself a model dir) .
ParameterStore load_model_dir(const std::string& path, const StoreOptions& options = {});

// Writes config.json and model.safetensors (fp32, architecture OspForCausalLM: unfused). Files are
// fsynced; the folder is created. tokenizer_json: content to store beside it, "" for none.
void save_model_dir(const ParameterStore& store, const std::string& path,
                    const std::string& tokenizer_json);

// EmbProj multiplied into the tables in fp64, SSNorm and Simple RMSNorm gains written as constant
// weights per channel: a plain LlamaForCausalLM store (norm "rms", no EmbProj, untied if it had
// EmbProj).
ParameterStore fuse(const ParameterStore& store);

// The text of config.json for a store's configuration.
std::string model_config_json(const ModelConfig& config);

}  // namespace osp
