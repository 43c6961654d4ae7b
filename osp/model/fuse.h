// Fusing: EmbProj, SSNorm's and Simple RMSNorm's gains, and branch scales are multiplied into the
// weights, so that a model of ours becomes a plain Llama with the same logits.
//
//   E' = E · P_inᵀ          x = E[tokens] · P_inᵀ
//   W' = W_head · P_out     logits = norm(x) · P_outᵀ · W_headᵀ
//   gain g (SSNorm) → the constant weight [g, …, g];  no gain (Simple RMSNorm) → [1, …, 1]
//
// A norm of the embedding and scalars on the branches are fused as well:
//
//   E'[t] = norm(E[t] · P_inᵀ)     W_o' = β W_o     W_down' = β' W_down     (and their biases)
//
// A model without norms in its blocks (norm = "none") is then embeddings, linear layers and the
// final norm: no Llama, so it stays an OspForCausalLM.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/model/parameters.h"

namespace osp {

// True if a model has EmbProj, a norm of the embedding, branch scales, SSNorm or Simple RMSNorm.
bool needs_fusing(const ModelConfig& config);

// The configuration of the fused model. A tied head becomes a table of its own where the
// embedding's norm is fused.
ModelConfig fused_config(ModelConfig config);

// The fused model, of the same part: EmbProj and scalars are multiplied into the matrices in fp64
// and rounded once to fp32, gains are written as weights per channel. Its norm is "rms" ("none" and
// LayerNorm stay). QK-norm stays too, with gains per channel, so such a model is an OspForCausalLM.
ParameterStore fuse(const ParameterStore& store);

// The distance of two models' logits on the same tokens.
struct LogitDifference {
  double largest = 0;   // max |a − b|
  double scale = 0;     // max |a|
  double relative = 0;  // largest / scale; NaN or infinite if a logit is not finite
};

// Runs both models in fp32 on tokens [B,T].
LogitDifference compare_logits(const ParameterStore& a, const ParameterStore& b,
                               const at::Tensor& tokens_BT);

}  // namespace osp
