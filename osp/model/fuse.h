// Fusing: a model with EmbProj, SSNorm or Simple RMSNorm becomes a plain Llama with the same
// logits.
//
//   E' = E · P_inᵀ          x = E[tokens] · P_inᵀ
//   W' = W_head · P_out     logits = norm(x) · P_outᵀ · W_headᵀ
//   gain g (SSNorm) → the constant weight [g, …, g];  no gain (Simple RMSNorm) → [1, …, 1]
//
// A model whose embedding has a norm and whose branches have scalars loses both, too:
//
//   E'[t] = norm(E[t] · P_inᵀ)     W_o' = β W_o     W_down' = β' W_down     (and their biases)
//
// One without norms in its blocks (norm = "none") is then embeddings, linear layers and the final
// norm; no Llama, so it stays an OspForCausalLM.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/model/parameters.h"

namespace osp {

// Whether a model has EmbProj, a norm of the embedding, branch scales, SSNorm or Simple RMSNorm.
bool needs_fusing(const ModelConfig& config);

// The configuration of the fused model. A tied head becomes a table of its own where the
// embedding's norm is fused.
ModelConfig fused_config(ModelConfig config);

// EmbProj and scalars multiplied into the matrices in fp64 and rounded once to fp32; gains written
// as weights per channel: a store with norm "rms" (or "none", or LayerNorm) and no more, of the
// same part. A model with QK-norm keeps it, with its gains per channel, and so stays an
// OspForCausalLM.
ParameterStore fuse(const ParameterStore& store);

// How far the logits of two models are apart on the same tokens.
struct LogitDifference {
  double largest = 0;   // max |a − b|
  double scale = 0;     // max |a|
  double relative = 0;  // largest / scale; NaN or infinite if a logit is not finite
};

// Runs both models in fp32 on tokens [B,T].
LogitDifference compare_logits(const ParameterStore& a, const ParameterStore& b,
                               const at::Tensor& tokens_BT);

}  // namespace osp
