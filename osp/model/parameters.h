// Parameters: names, shapes, and the banks that hold them.
//
// Parameters of equal shape and equal optimizer group live in one bank, a contiguous fp32 tensor
// [count, rows, cols] (a vector or scalar is one row). A parameter is a view of its bank. Each bank
// has a gradient bank of the same shape (fp32) and, when compute is bf16, a bf16 copy that is cast
// once per step. Names and shapes are those of Hugging Face's LlamaForCausalLM, [out, in], whatever
// the family; hf_family.h has the names in a family's files, parameter_role.h the roles.
//
// Additional names (the table of all is in parameter_role.cpp):
//   EmbProj                      model.embed_proj.weight, lm_head_proj.weight [D, D]
//   SSNorm's gains               model.layers.N.input_layernorm.weight and so on with shape [1]
//   biases                       the name of the linear layer or LayerNorm with .bias, [out]
//   learned positions            model.embed_positions.weight [offset + context, D]
//   norm of the embedding        model.embed_norm.weight
//   scalars on the branches      model.layers.N.self_attn.branch_scale and .mlp.branch_scale [1]
//   norms after the branches     post_attention_layernorm, post_feedforward_layernorm (OLMo 2's)
//   norms around the branches    input_layernorm, post_self_attn_layernorm,
//                                post_attention_layernorm, post_feedforward_layernorm
//   networks without a gate      up_proj and down_proj
//   mixtures of experts          mlp.gate.weight [experts, D] (the router), and in place of gate,
//                                up and down mlp.experts.E.gate_proj, .up_proj, .down_proj of
//                                expert E
//   attention sinks              model.layers.N.self_attn.sinks [heads]
//
// Tested by parameter_role_test.cpp (roles, names) and transformer_test.cpp (banks).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "osp/model/config.h"
#include "osp/model/parameter_role.h"

namespace osp {

struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;
  ParameterRole role;
  ParameterKind kind;
  int64_t layer = kNoLayer;
  int64_t expert = kNoExpert;
};

// All parameters of a (resolved) model, in the order of the forward pass.
std::vector<ParameterSpec> parameter_specs(const ModelConfig& config);

// Scalars in all of them.
int64_t count_parameters(const ModelConfig& config);

struct Bank {
  std::string name;              // e.g. "matrix 256x256 (muon)"
  ParameterKind kind;            // of all its members
  int64_t group = 0;             // the optimizer group of all its members
  std::vector<int64_t> members;  // indices into ParameterStore::specs
  at::Tensor master;             // [count, rows, cols] fp32
  at::Tensor gradient;           // the same, or undefined without training
  at::Tensor compute;            // bf16 copy; the same tensor as master for fp32 compute
};

// Which of a model's parameters a store holds: all (kWhole), those of one block (its layer number),
// or those in front of and behind the blocks (embedding, final norm, head and so on).
using Part = std::optional<int64_t>;
inline constexpr Part kWhole = std::nullopt;
inline constexpr Part kOutsideBlocks = kNoLayer;
inline constexpr Part kFirstBlock = 0;

struct ParameterStore {
  ModelConfig config;  // of the whole model
  Part part = kWhole;
  std::vector<ParameterSpec> specs;
  std::vector<Bank> banks;
  std::vector<int64_t> bank_of;  // per parameter
  std::vector<int64_t> slot_of;  // per parameter: index in the bank
  // Where a parameter stands in specs, by its name and by what find() is asked for.
  std::unordered_map<std::string, int64_t> index_of_name;
  std::unordered_map<uint64_t, int64_t> index_of_role;

  // Views in the parameter's own shape; the gradient is undefined where the store has none.
  at::Tensor master(int64_t parameter) const;
  at::Tensor gradient(int64_t parameter) const;
  at::Tensor compute(int64_t parameter) const;
  // Index of a parameter by its name, or of the weight or bias of a role; −1 if it is not there.
  int64_t find(const std::string& name) const;
  int64_t find(ParameterRole role, int64_t layer = kNoLayer, int64_t expert = kNoExpert) const;
  int64_t find_bias(ParameterRole role, int64_t layer = kNoLayer, int64_t expert = kNoExpert) const;
  int64_t num_parameters() const;  // scalars in total
};

struct StoreOptions {
  bool bf16 = false;                // compute in bf16 beside fp32 masters
  bool gradients = false;           // allocate gradient banks
  std::vector<int64_t> group = {};  // optimizer group per parameter; empty: all 0
  Part part = kWhole;
};

// Allocates (zero-filled) banks for a resolved configuration.
ParameterStore make_parameters(const ModelConfig& config, const StoreOptions& options);

// A store of a configuration without its parameters, for callers that run it on an engine which has
// them: one empty bank, on the CPU.
ParameterStore store_without_parameters(const ModelConfig& config);

// Sets every master weight; the one place for initial values (table in the .cpp). Pure function of
// (config, seed). Ends with sync_compute().
void initialize_parameters(ParameterStore& store, uint64_t seed);

// Casts masters into the compute copies (once per optimizer step).
void sync_compute(ParameterStore& store);

// From now on computes in bf16 from copies of the masters, or in the masters' type.
void set_compute_type(ParameterStore& store, bool bf16);

void zero_gradients(ParameterStore& store);

}  // namespace osp
