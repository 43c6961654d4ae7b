// Keys that GGUF files of some architectures have beside a Llama's: windows, constant factors,
// capped logits, rotary embeddings of parts of heads or with factors for long texts, experts
// (gguf_expert_keys.h).
//
// Tested by tests/python/test_gguf_architectures.py.
#pragma once

#include <cstdint>
#include <string_view>

#include "osp/base/json.h"
#include "osp/formats/gguf.h"
#include "osp/model/config.h"

namespace osp {

// Tensors [rotated channels / 2] of Phi-3: divisors of the frequencies of long and of other texts.
inline constexpr const char* kGgufLongFactors = "rope_factors_long.weight";
inline constexpr const char* kGgufShortFactors = "rope_factors_short.weight";

// True in files of a gpt-oss whose YaRN takes whole channel pairs, as llama.cpp computes it; absent
// for the family's own, whatever llama.cpp computes.
inline constexpr const char* kGgufYarnTruncateKey = "osp.yarn_truncate";

// True if a key of the architecture (without its first word) is read by add_gguf_family_keys().
bool is_gguf_family_key(std::string_view architecture, std::string_view key);

// True if the rotary embedding of the architecture may turn a part of each head.
bool rotates_a_part(std::string_view architecture);

// Completes a config.json that has a Llama's keys by those of the family, which may change
// "architectures". Error(damaged, unsupported) that names file and key or tensor.
void add_gguf_family_keys(const GgufFile& file, std::string_view architecture, Json& json);

// The window layers of a family by their order, as llama.cpp derives them without a key: all but
// every second (gemma2, gpt-oss), fourth (OLMo 3), sixth (gemma3).
int64_t gguf_window_interval(std::string_view architecture);

// Layers of a Gemma whose queries are scaled by the width of a head as width / heads says, not by
// their own size: of the largest models, which llama.cpp knows by their number of layers.
int64_t gguf_wide_scale_layers(std::string_view architecture);

}  // namespace osp
