// config.json of a model dir: which models osp reads, which it refuses by name, what it writes.
//
// A model of another family is written as that family (hf_family.h), so that every tool of the
// field reads it; a model of ours as LlamaForCausalLM where its options are a Llama's. What no
// family can say is written as OspForCausalLM: a Llama's keys and osp_norm,
// osp_embedding_projection, osp_qk_norm and those of the other options that are not a Llama's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/config.h"
#include "osp/model/model_files.h"

namespace osp {

// The contents of a config.json.
struct HfConfig {
  ModelConfig model;                // resolved
  std::vector<int64_t> end_tokens;  // eos_token_id: none, one or several
  // How the weights had been rounded by whoever wrote the file, for results and messages: "GPTQ, 4
  // bits, groups of 128"; "" where they had not, as far as the file says. Set by load_model_config
  // (osp/model/model_dir.h), once for all commands.
  std::string rounded_before = {};
};

// The key of config.json, and of results, with HfConfig::rounded_before of plain weights; in a GGUF
// file it is osp.rounded_before.
inline constexpr const char* kRoundedBeforeKey = "osp_rounded_before";
inline constexpr const char* kGgufRoundedBeforeKey = "osp.rounded_before";

// True for a model of ours that is written as LlamaForCausalLM.
bool is_plain_llama(const ModelConfig& config);

// The architecture that the model is written as.
std::string architecture_name(const ModelConfig& config);

// Reads a parsed config.json. `where` (a path) begins every message. Error(unsupported) names the
// feature that osp does not compute (another architecture, activation or rope type, quantized
// weights) and what it does; Error(damaged) names the key with a missing, mistyped or absurd value.
// Nothing is allocated from the numbers.
HfConfig parse_hf_config(const Json& json, const std::string& where);

// The text of config.json for a resolved configuration. `dtype` is that of the stored weights
// ("float32", "bfloat16"); `end_tokens` become eos_token_id, the outer ones bos_token_id
// and pad_token_id.
std::string model_config_json(const ModelConfig& config, const std::string& dtype = "float32",
                              const std::vector<int64_t>& end_tokens = {},
                              const OuterTokens& outer_tokens = {});

// eos_token_id as configurations have it: null, an id or a list of ids.
Json end_tokens_json(const std::vector<int64_t>& end_tokens);

}  // namespace osp
