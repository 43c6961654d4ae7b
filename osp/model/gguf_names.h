// llama.cpp's names of a Llama's parameters, and its order of the rows of queries and keys.
//
// Its rotary embedding turns neighbouring channels (2i, 2i + 1) where ours and transformers' turns
// (i, i + K/2); so the rows of the query and key projections stand in another order in its files:
//   row h K + 2 i + s of the file is row h K + s K/2 + i of ours   (i < K/2, s = 0, 1).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/model/parameters.h"

namespace osp {

// The name in a GGUF file of a parameter; "" if a llama GGUF has no such tensor.
std::string gguf_tensor_name(const ParameterSpec& spec);

// Heads in whose order the rows of a parameter are permuted: those of queries or keys, else 0.
int64_t gguf_permuted_heads(const ParameterSpec& spec, const ModelConfig& config);

// For each row of the file's tensor the row of ours, for `rows` rows in `heads` heads.
std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads);

}  // namespace osp
