// The role of a parameter: what it is in the model, whatever its name in a file.
//
// Code that treats some layers differently asks the role in a switch without `default`, so that the
// compiler (-Wswitch, an error) names every place that must decide what a new role means there.
// Names are for files and for people: hf_family.h, gguf_names.h, the routes of a recipe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace osp {

// In the order of the forward pass. The bias of a linear layer or LayerNorm has the role of its
// weight and the kind `bias`.
enum class ParameterRole {
  embedding,
  position_embedding,    // learned positions
  embedding_projection,  // EmbProj behind the embedding
  embedding_norm,
  // Of each block:
  input_norm,  // in front of attention; of both branches where they share it
  query,
  key,
  value,
  query_norm,
  key_norm,
  attention_sink,          // a logit for each query head
  attention_output,        // the projection behind attention
  attention_branch_scale,  // a scalar, as mlp_branch_scale
  attention_end_norm,      // behind that projection, where norms stand around the branches
  post_attention_norm,     // in front of gate and up; behind attention where norms follow branches
  router,                  // logits of the experts (expert_routing.h)
  gate,
  up,
  down,
  mlp_branch_scale,
  post_feedforward_norm,  // behind the feed-forward network (OLMo 2, Gemma, GLM-4)
  // Behind the blocks:
  final_norm,
  head_projection,  // EmbProj in front of the head
  head,
};

// How a parameter is initialised, trained and quantized.
enum class ParameterKind {
  embedding,
  head,
  embedding_projection,
  matrix,
  router,  // never quantized: a wrong choice of experts costs more than its few numbers
  gain,
  bias,
  positions,
  sink
};

// "embedding", "head", "embedding projection", "matrix" (of a block), "gain" and so on: in names of
// banks and in messages.
const char* kind_name(ParameterKind kind);

// The kind of the role's weight.
ParameterKind weight_kind(ParameterRole role);

// The linear layers of a block. Code that is about these alone switches over them, again without
// `default`; block_linear() is the one place that sorts the roles.
enum class BlockLinear { query, key, value, attention_output, gate, up, down };

// The role as a linear layer of a block, or none.
std::optional<BlockLinear> block_linear(ParameterRole role);

// The layer number of parameters outside the blocks.
inline constexpr int64_t kNoLayer = -1;

// The expert of parameters that are no expert's.
inline constexpr int64_t kNoExpert = -1;

// Our name of a parameter, which is that of LlamaForCausalLM where that has one:
// "model.layers.3.self_attn.q_proj.weight", "lm_head.weight". `layer` is kNoLayer for roles outside
// the blocks. Gate, up and down of an expert are "model.layers.3.mlp.experts.7.gate_proj.weight".
std::string parameter_name(ParameterRole role, int64_t layer = kNoLayer,
                           int64_t expert = kNoExpert);
std::string bias_name(ParameterRole role, int64_t layer = kNoLayer, int64_t expert = kNoExpert);

}  // namespace osp
