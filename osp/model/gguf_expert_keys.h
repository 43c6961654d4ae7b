// Mixtures of experts in GGUF files. The weights of a layer of all experts are one tensor
// [experts, rows, columns], its biases one of [experts, rows]:
//
//   blk.N.ffn_gate_inp.weight    [E, D]      the router, always F32
//   blk.N.ffn_gate_exps.weight   [E, F, D]
//   blk.N.ffn_up_exps.weight     [E, F, D]
//   blk.N.ffn_down_exps.weight   [E, D, F]
//
// and the keys expert_count (E), expert_used_count, expert_feed_forward_length (F; of an olmoe
// that is feed_forward_length). How tokens are routed follows from the architecture, in llama.cpp:
//
//   qwen3moe   softmax over all experts, the chosen probabilities divided by their sum
//   olmoe      softmax over all experts
//   gpt-oss    softmax over the chosen logits; gates and ups are clamped at 7, alpha 1.702
//
// Files may say it with expert_gating_func (1 and 3 for the two softmaxes) and expert_weights_norm,
// which must agree.
//
// Tested by tests/python/test_gguf_experts.py.
#pragma once

#include <cstdint>
#include <string_view>

#include "osp/base/json.h"
#include "osp/formats/gguf.h"

namespace osp {

struct GgufRouting {
  std::string_view architecture;
  int64_t gating_function;  // expert_gating_func
  bool normalized;          // the chosen probabilities are divided by their sum
};

// The clamp of the experts' products of a gpt-oss, ModelConfig::swiglu_limit and swiglu_alpha.
inline constexpr double kGgufSwigluLimit = 7.0, kGgufSwigluAlpha = 1.702;

// Null for an architecture without experts.
const GgufRouting* find_gguf_routing(std::string_view architecture);

// True if a key of the architecture (without its first word) is read by add_gguf_expert_keys().
bool is_gguf_expert_key(std::string_view architecture, std::string_view key);

// Completes a config.json by the keys of an architecture with experts; nothing for others.
// Error(damaged) that names a key that is missing, Error(unsupported) one that contradicts the
// architecture.
void add_gguf_expert_keys(const GgufFile& file, std::string_view architecture, Json& json);

}  // namespace osp
