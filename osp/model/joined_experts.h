// Experts of a block that a file holds in one tensor each for gate and up, for down, and for their
// biases.
//
//   layout       mlp.experts.gate_up_proj        mlp.experts.down_proj  biases
//   joined       [E, 2 F, D], gate above up      [E, D, F]              none
//   interleaved  [E, D, 2 F], columns gate, up,  [E, F, D]              gate_up_proj_bias [E, 2 F],
//                gate, up … in turn                                     down_proj_bias [E, D]
//
// The first is how transformers 5 holds Qwen3-MoE and OLMoE, the second how gpt-oss is published.
//
// Tested by tests/python/test_experts.py and test_gpt_oss.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "osp/model/hf_family.h"

namespace osp {

// True if the name is that of a tensor of ExpertLayout::joined or interleaved.
bool is_joined_experts(const std::string& name);

// True if an expert's parameter is held together with those of the others.
bool joins_experts(const ParameterSpec& spec, ExpertLayout layout);

// The name of the tensor that holds it.
std::string joined_expert_name(const ParameterSpec& spec);

// Puts such a parameter to the others of its block in the tensor `name`; all of one kind follow
// each other with an expert's gate before its up projection.
void join_expert(std::vector<StoredTensor>& stored, const std::string& name, ExpertLayout layout,
                 const ParameterSpec& spec, int64_t parameter);

// The parameters of a tensor in StoredOrder::interleaved, as views of it, and the reverse.
std::vector<at::Tensor> split_interleaved(const StoredTensor& stored, const at::Tensor& tensor);
at::Tensor join_interleaved(const StoredTensor& stored, const std::vector<at::Tensor>& parts);

}  // namespace osp
