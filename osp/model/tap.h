// Taps: the one way to watch or to replace tensors inside the forward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "osp/model/parameter_role.h"

namespace osp {

class ForwardEngine;

// A point keeps its meaning in families whose blocks are not a Llama's:
//   norms after branches (OLMo 2)  attention_input and mlp_input are the residual stream itself
//   parallel branches              both belong to the state before the block, and are equal where
//                                  both branches have one norm
//   part of a head is rotated      query and key are what attention uses
//   learned positions              query and key are not rotated
//   no gate                        mlp_product is the activation
//   mixture of experts             mlp_input is what the experts read; the router reads it as it
//                                  was before the tap. mlp_product is [B,k,T,F]: slot s of a token
//                                  is its expert with the s-th largest probability, F an expert's
//                                  inner size
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
  // True where at() must be called. A point that no tap wants may never exist as a tensor.
  virtual bool wants(TapPoint point, int64_t layer) const = 0;
  // Gets the tensor, returns it or its replacement (same shape; differentiable if training). It
  // must not change the tensor in place or hang a hook on it: the backward pass may compute the
  // tensor again, and gradients may go past it (RecomputableInput, osp/ops/recomputable_input.h).
  virtual at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) = 0;
  // The engine that computes the whole pass in place of the operators (forward_engine.h), and then
  // shows no point; nullptr: none.
  virtual ForwardEngine* engine() { return nullptr; }
  // The weight of a linear layer (index into ParameterStore::specs) or its replacement. Called only
  // where wants_weights(). Embedding and head are offered too.
  virtual bool wants_weights() const { return false; }
  virtual at::Tensor weight(int64_t /*parameter*/, const at::Tensor& w) { return w; }
  // The input [tokens, in] of linear layers, one call for all that share it; a layer's output with
  // the bias and the gradient with respect to that, [tokens, out], rows perhaps further apart.
  // Called only where wants_linear().
  virtual bool wants_linear() const { return false; }
  virtual void linear_input(std::span<const int64_t> /*parameters*/, const at::Tensor& /*x*/) {}
  virtual void linear_output(int64_t /*parameter*/, const at::Tensor& /*y*/) {}
  virtual void linear_output_gradient(int64_t /*parameter*/, const at::Tensor& /*dy*/) {}
};

}  // namespace osp
