// The architectures of GGUF files that osp reads and writes: llama.cpp's names of the parameters,
// and its order of the rows of queries and keys.
//
// In some architectures its rotary embedding turns neighbouring channels (2i, 2i + 1) where ours
// and transformers' turns (i, i + K/2); so the rows of the query and key projections stand in
// another order in their files:
//   row h K + 2 i + s of the file is row h K + s R/2 + i of ours
//   (i < R/2, s = 0, 1; R channels are rotated, the others stand where they are).
// Phi-3 and GLM-4 have the projections of queries, keys and values (Phi-3), gate and up in one
// tensor, one behind the other; experts stand behind each other, too (gguf_expert_keys.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "osp/model/parameters.h"

namespace osp {

struct GgufArchitecture {
  std::string_view name;        // general.architecture, and the first word of its keys
  std::string_view family;      // the class of transformers
  bool neighbours;              // its rotary embedding turns neighbouring channels
  bool joined_qkv = false;      // attn_qkv: queries, keys, values
  bool joined_gate_up = false;  // ffn_up: gate, up
};

// Null for an architecture that osp does not read.
const GgufArchitecture* find_gguf_architecture(std::string_view name);
// "llama, qwen2, …"
std::string gguf_architectures();
// That of a model's family, whether or not the files can say all about the model; null if
// there is none.
const GgufArchitecture* gguf_architecture_of(const ModelConfig& config);

// The blocks without rotary embedding of a SmolLM3, which its files do not name: every fourth.
inline constexpr int64_t kGgufUnrotatedInterval = 4;

// The name in a GGUF file of the tensor that a parameter of a model is, or is a part of; "" if its
// architecture has no such tensor.
std::string gguf_tensor_name(const ParameterSpec& spec, const ModelConfig& config);

// Heads in whose order the rows of a parameter are permuted: those of queries or keys, else 0.
int64_t gguf_permuted_heads(const ParameterSpec& spec, const ModelConfig& config);

// For each row of the file's tensor the row of ours, for `rows` rows in `heads` heads, of each of
// which `rotated` channels are rotated (0: all).
std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads, int64_t rotated = 0);

// A tensor of a file: the parameters whose rows stand in it, one after the other, by their index.
// Of the experts of a block one tensor holds a layer of all: [experts, rows, columns], and
// [experts, rows] of biases.
struct GgufStoredTensor {
  std::string name;
  std::vector<int64_t> parameters;
  std::vector<int64_t> shape;
};
std::vector<GgufStoredTensor> gguf_stored_tensors(const std::vector<ParameterSpec>& specs,
                                                  const ModelConfig& config);

}  // namespace osp
