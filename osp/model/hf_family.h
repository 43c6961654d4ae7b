// The model families that osp reads: for each the keys of its config.json, the options of our one
// transformer that they mean, and the names and layout of its tensors.
//
// | architecture      | differs from a Llama by                                                  |
// |-------------------|--------------------------------------------------------------------------|
// | Mistral           | sliding window                                                           |
// | Qwen2             | biases of q, k, v; window in the last blocks                             |
// | Qwen3             | RMSNorm of each query and key head                                       |
// | Qwen3Moe          | the same, mixtures of experts in all blocks or in some                   |
// | Olmoe             | mixtures of experts, RMSNorm over all heads of q and of k                |
// | GptOss            | mixtures of experts with biases, clamped SwiGLU, attention sinks, windows |
// | SmolLM3           | layers without the rotary embedding                                      |
// | SeedOss           | separate switches of the biases                                          |
// | Arcee             | relu squared, no gate                                                    |
// | Ernie4_5          | rotary pairs are neighbours in the files                                 |
// | Ministral         | windows by layer                                                         |
// | Ministral3        | queries that grow with the position                                      |
// | Phi3 (Phi-3, -4)  | q, k, v and gate, up in one tensor; part of a head rotated               |
// | Granite           | constant factors of embedding, branches, attention and logits            |
// | Olmo              | LayerNorm without weights, clipped q, k, v                               |
// | Olmo2             | norms after the branches, RMSNorm over all heads of q and of k           |
// | Olmo3             | the same, windows by layer with a rotary embedding of their own          |
// | Gemma2            | norms before and after the branches, 1 + weight, capped logits           |
// | Gemma3            | the same without the caps of attention, RMSNorm of each head of q and k  |
// | Glm, Glm4         | part of a head rotated in pairs of neighbours; Glm4: as many norms       |
// | Nemotron          | LayerNorm with 1 + weight, relu squared, no gate                         |
// | GPTNeoX (Pythia)  | LayerNorm, parallel branches, part of a head rotated, biases, no gate    |
// | StableLm          | LayerNorm, part of a head rotated, optionally parallel with one norm     |
// | OPT               | LayerNorm, learned positions, biases, relu, no gate                      |
//
// Tested by hf_config_test.cpp and tests/python/test_families.py.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "osp/model/config_keys.h"
#include "osp/model/parameters.h"

namespace osp {

// How the tensors of a family's files differ from ours.
struct TensorLayout {
  // Parameters that the renames give one name are one tensor. Its rows are those of one parameter
  // after the other, or [head][q, k, v][channel].
  bool joined_by_head = false;
  // The rotary embedding turns channels 2i and 2i + 1 of a head's rotated part, where ours turns i
  // and i + half: the rows of q and k are stored in another order. Products of q and k
  // stay as they are.
  bool neighbour_pairs = false;
  // The norms multiply by 1 + the stored weight.
  bool norms_from_one = false;
  // Weights of experts are in ExpertLayout::interleaved.
  bool interleaved_experts = false;
};

struct Family {
  std::string architecture;
  std::string model_type;
  // Names every key, in either direction; see ConfigKeys.
  void (*describe)(ConfigKeys&, ModelConfig&);
  // Replacements, one after the other, that turn our name of a tensor into the file's. They work on
  // names, not roles, because a replacement of a prefix covers many roles and all layers.
  std::vector<std::pair<std::string, std::string>> renames = {};
  // Endings of the names of stored tensors that hold nothing new (constants, masks).
  std::vector<std::string> ignored = {};
  TensorLayout layout = {};
};

// By architecture; nullptr if osp does not read it. "" stands for LlamaForCausalLM.
const Family* find_family(const std::string& architecture);

// "LlamaForCausalLM, MistralForCausalLM, …" for messages.
std::string supported_architectures();

// The order of a stored tensor's rows.
enum class StoredOrder {
  plain,            // one parameter's rows after the other's
  by_head,          // [head][parameter][channel]
  neighbour_pairs,  // of one parameter: see TensorLayout::neighbour_pairs
  interleaved,      // see joined_experts.h
};

// A tensor of a file and the parameters (indices into parameter_specs) that it holds: one, q, k and
// v, gate and up, or those of all experts (joined_experts.h).
struct StoredTensor {
  std::string name;
  std::string alias;  // another name that files have, "" if none
  std::vector<int64_t> shape;
  std::vector<int64_t> parameters;
  std::vector<int64_t> rows;  // of each of them
  StoredOrder order = StoredOrder::plain;
  double offset = 0.0;  // added to the stored numbers
};

// How files hold the experts of a block: mlp.experts.E.gate_proj.weight and so on, as most
// published models have them, or in one tensor as joined_experts.h says.
enum class ExpertLayout { apart, joined, interleaved };

// The layout in which osp writes a model of this configuration.
ExpertLayout written_experts(const ModelConfig& config);

// The tensors of a model's files, in the order of the forward pass.
std::vector<StoredTensor> stored_tensors(const ModelConfig& config,
                                         const std::vector<ParameterSpec>& specs,
                                         ExpertLayout experts = ExpertLayout::apart);

// The name of the tensor in the family's files that holds a parameter.
std::string stored_name(const ModelConfig& config, const std::string& parameter);

// Rows of the file's tensor from those of its parameters [rows, ...], and the reverse; every tensor
// that goes with the rows (codes, scales) is ordered alike.
at::Tensor join_rows(const ModelConfig& config, const StoredTensor& stored,
                     const std::vector<at::Tensor>& parts);
std::vector<at::Tensor> split_rows(const ModelConfig& config, const StoredTensor& stored,
                                   const at::Tensor& rows);

// Copies an fp32 tensor of the file's shape into the parameters' masters, and the reverse.
void scatter_stored(const StoredTensor& stored, const at::Tensor& tensor, ParameterStore& store);
at::Tensor gather_stored(const StoredTensor& stored, const ParameterStore& store);

}  // namespace osp
