// Models in GGUF files: metadata to a configuration, tensors to parameters.
//
// The architectures of gguf_names.h are read. Quantized tensors become the fp32 values that their
// blocks stand for, exactly; a model that is read in bf16 rounds them once more.
//
// Tested by gguf_names_test.cpp (names) and tests/python/test_gguf_model.py.
#pragma once

#include <memory>
#include <string>

#include "osp/base/json.h"
#include "osp/formats/gguf.h"
#include "osp/model/hf_config.h"
#include "osp/model/model_source.h"

namespace osp {

// The metadata as a config.json. Error(unsupported) names an architecture or a feature that osp
// does not compute, Error(damaged) a key that is missing or contradicts a tensor.
Json gguf_config_json(const GgufFile& file);

// The configuration of a GGUF file; errors as gguf_config_json and parse_hf_config.
HfConfig load_gguf_config(const std::string& path);

// Configuration and weights. Missing or extra tensors and wrong shapes: Error(damaged) naming file
// and tensor, before anything is allocated from the numbers of the metadata.
std::unique_ptr<ModelSource> open_gguf_model(const std::string& path);

}  // namespace osp
