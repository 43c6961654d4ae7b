// The configuration of a model in a GGUF file: the keys of llama.cpp's architectures, and which
// models they describe in full.
//
// Tested by gguf_export_test.cpp and tests/python/test_gguf_architectures.py.
#pragma once

#include <string>
#include <vector>

#include "osp/formats/gguf_writer.h"
#include "osp/model/config.h"

namespace osp {

// The first thing about a model that no architecture's files say, or that llama.cpp computes
// otherwise ("has a sliding window of 16"); "" if one says all.
std::string why_no_gguf(const ModelConfig& config);

// Architecture, sizes and what else the architecture has. `file_type` (general.file_type) and
// `name` ("": none) only inform.
void add_model_metadata(const ModelConfig& config, uint32_t file_type, const std::string& name,
                        GgufMetadataWriter& metadata);

// Sentences about what llama.cpp computes a little otherwise than the model, whatever a file says.
std::vector<std::string> gguf_model_differences(const ModelConfig& config);

// The tensors that describe the rotary embedding; none for one that is not scaled.
std::vector<GgufTensorEntry> gguf_rope_tensors(const ModelConfig& config);

}  // namespace osp
