// The architectures of GGUF files that osp reads and writes: llama.cpp's names of the parameters, and its
// order of the rows of queries and keys.
//
// In some architectures its rotary embedding turns neighbouring channels (2i, 2i + 1) where ours and
// transformers' turns (i, i + K/2); so the rows of the query and key projections stand in another order in
// their files:
//   row h K + 2 i + s of the file is row h K + s K/2 + i of ours   (i < K/2, s = 0, 1).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "osp/model/parameters.h"

namespace osp {

struct GgufArchitecture {
  std::string_view name;    // general.architecture, and the first word of its keys
  std::string_view family;  // the class of transformers
  bool neighbours;          // its rotary embedding turns neighbouring channels
  bool written = true;      // osp writes it, too
};

// Null for an architecture that osp does not read.
const GgufArchitecture* find_gguf_architecture(std::string_view name);
// "llama, qwen2, …": those that osp reads, or those that it also writes.
std::string gguf_architectures(bool written = false);
// That of a model's family, whether or not the files can say all about the model; null if there is none.
const GgufArchitecture* gguf_architecture_of(const ModelConfig& config);

// The blocks without rotary embedding of a SmolLM3, which its files do not name: every fourth.
inline constexpr int64_t kGgufUnrotatedInterval = 4;

// The name in a GGUF file of a parameter of a model; "" if its architecture has no such tensor.
std::string gguf_tensor_name(const ParameterSpec& spec, const ModelConfig& config);

// Heads in whose order the rows of a parameter are permuted: those of queries or keys, else 0.
int64_t gguf_permuted_heads(const ParameterSpec& spec, const ModelConfig& config);

// For each row of the file's tensor the row of ours, for `rows` rows in `heads` heads.
std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads);

}  // namespace osp
