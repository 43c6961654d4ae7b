// Taps: the one way to watch or to replace tensors inside the forward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "osp/model/parameter_role.h"

namespace osp {

// Where the blocks of a family are not a Llama's, a point keeps its role: with norms after the
// branches (OLMo 2) attention_input and mlp_input are the residual stream itself, not normalised;
// with parallel branches both belong to the state before the block, and with one norm for both they
// are equal; query and key are what attention uses, rotated in part or, with learned positions, not
// at all; mlp_product of a network without a gate is the activation. linear_output includes the
// bias.
enum class TapPoint {
  embedding,         // [B,T,D] embedding (after EmbProj): residual state 0; layer = 0
  attention_input,   // [B,T,D] normalised input of q, k, v
  query,             // [B,H,T,K] after RoPE
  key,               // [B,Hkv,T,K] after RoPE
  value,             // [B,Hkv,T,K]
  attention_logits,  // [B,H,T,T] scaled, before the causal mask; selects reference attention
  attention_output,  // [B,T,H*K] input of the output projection
  mlp_input,         // [B,T,D] normalised input of gate and up
  mlp_product,       // [B,T,F] input of the down projection
  residual,          // [B,T,D] state after block `layer`
  final_state,       // [B,T,D] after the final norm; layer = L
  head_input,        // [B,T,D] after the output EmbProj, input of the head; layer = L
};

// The point that shows the input of the role's linear layer, or of the head. Only for roles that
// have one: not norms, scales and tables, nor EmbProj behind the embedding.
TapPoint input_point(ParameterRole role);

// Base class of watchers and replacers. The default watches nothing and changes nothing.
class Tap {
 public:
  virtual ~Tap() = default;
  // Whether at() must be called for this point (a point that nobody wants may be fused away).
  virtual bool wants(TapPoint point, int64_t layer) const = 0;
  // Gets the tensor, returns it or its replacement (same shape; differentiable if training). Never
  // changes it in place and hangs no hook on it: what was made from it may be made again, and
  // gradients may go past it (Activation, osp/ops/fused.h).
  virtual at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) = 0;
  // The weight of a linear layer (index into ParameterStore::specs) or its replacement. Called only
  // where wants_weights(). Embedding and head are offered too.
  virtual bool wants_weights() const { return false; }
  virtual at::Tensor weight(int64_t /*parameter*/, const at::Tensor& w) { return w; }
  // Input of a linear layer [tokens, in], its output and the gradient with respect to it,
  // [tokens, out]; called only where wants_linear().
  virtual bool wants_linear() const { return false; }
  virtual void linear_input(int64_t /*parameter*/, const at::Tensor& /*x*/) {}
  virtual void linear_output(int64_t /*parameter*/, const at::Tensor& /*y*/) {}
  virtual void linear_output_gradient(int64_t /*parameter*/, const at::Tensor& /*dy*/) {}
};

}  // namespace osp
