// The forward pass of one transformer with options (config.h) over a ParameterStore.
//
// Shapes: B batch, T time, D width, H heads, K head size, F inner size, V vocabulary, L layers.
//
//                            our models               without norms in the blocks (*)
//   embedding                x = E[tokens] · P_inᵀ    x = norm(E[tokens] · P_inᵀ)
//   each of the L blocks     x += Attention(norm(x))  x += β  Attention(x)
//                            x += SwiGLU(norm(x))     x += β' SwiGLU(x)
//   final state              h = norm(x) · P_outᵀ     h = norm(x) · P_outᵀ
//   head                     logits = h · W_headᵀ     logits = h · W_headᵀ
//
// In place of SwiGLU a block may have a mixture of experts (expert_routing.h).
//
// (*) norm = "none", with embedding_norm and branch_scale: the Outlier Protected block.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "osp/model/expert_routing.h"
#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/ops/segment_attention.h"

namespace osp {

// Keys and values of the tokens seen so far, per layer [B, Hkv, capacity, K].
struct KvCache {
  std::vector<at::Tensor> keys, values;
  int64_t length = 0;  // tokens held
};

KvCache make_kv_cache(const ParameterStore& store, int64_t batch, int64_t capacity);

struct ForwardOptions {
  Tap* tap = nullptr;
  KvCache* cache = nullptr;  // tokens are appended at cache->length; no training then
  // [B,T] int32: document number of each token; attention stays within equal numbers. Undefined:
  // plain causal attention. Numbers do not decrease along T.
  at::Tensor documents_BT = {};
  // The tokens are [1, N], those of many texts without padding; positions begin anew in each text
  // (osp/ops/segment_attention.h). Slots are rows of the cache if there is one (whose length is
  // neither used nor advanced), else of this pass's own keys. No training, no documents, and taps
  // that want no attention_logits. Linear layers are fast_linear (osp/ops/linear.h).
  std::span<const Segment> segments = {};
  // Build the autograd graph; weight gradients are added into store.gradient where the store has
  // gradient banks.
  bool training = false;
  // Keep only the input of each block for the backward pass, which runs the block once more: about
  // a fifth more time, and the memory of one block. On a CPU gradients have the same bits. With
  // `training`, the store and the tap must outlive the graph; the tap sees the points of a block
  // twice, its linear layers only the second time. forward_block ignores it.
  bool recompute_blocks = false;
  // With `training`: called in the backward pass with a block's number, from the last to the
  // second, as soon as the gradients of its parameters and of all behind it are complete (not of
  // tables that are also read in front of it, as a tied head's is).
  std::function<void(int64_t layer)> blocks_done = {};
};

// The pass in pieces, for callers that go through the model layer by layer:
//   logits = forward_head(forward_block(L−1, … forward_block(0, forward_embedding(tokens)))).
// forward_hidden is made of the same functions with the same taps; the residual stream x [B,T,D]
// between them is in the compute type. Positions begin at 0, or at cache->length, which the
// pieces do not advance (each block appends its keys and values there). With options.training the
// pieces are differentiable in x too.
at::Tensor forward_embedding(const ParameterStore& store, const at::Tensor& tokens_BT,
                             const ForwardOptions& options = {});
at::Tensor forward_block(const ParameterStore& store, int64_t layer, const at::Tensor& x_BTD,
                         const ForwardOptions& options = {});

// A block cut at the inputs of its linear layers, for calibration, which takes many windows to one
// cut before the next. With x the stream in front of the block:
//
//   a = attention_input(x)           m = mlp_input(x)
//   o = attention_output(a)          p = mlp_product(m)
//   x ← x + attention_branch(o)      x ← x + mlp_branch(p)
//
// The left column runs first; mlp_input then gets the x that has the attention branch added, except
// in parallel families, where it gets the x in front of the block.
//
// In a mixture of experts mlp_product and mlp_branch also get routing(x) of the same x as
// mlp_input, and p is [B,k,T,F].
//
// Taps see the same points as in forward_block (inputs are returned as the tap left them), but not
// the residual stream. Positions begin at 0. store and tap must outlive it.
class ForwardPass;
class BlockPieces {
 public:
  BlockPieces(const ParameterStore& store, int64_t layer, int64_t length,
              const ForwardOptions& options = {});
  ~BlockPieces();
  at::Tensor attention_input(const at::Tensor& x_BTD) const;
  at::Tensor attention_output(const at::Tensor& input_BTD) const;
  at::Tensor attention_branch(const at::Tensor& output) const;
  at::Tensor mlp_input(const at::Tensor& x_BTD) const;
  ExpertRouting routing(const at::Tensor& x_BTD) const;  // undefined in blocks without experts
  at::Tensor mlp_product(const at::Tensor& input_BTD, const ExpertRouting& routing = {}) const;
  at::Tensor mlp_branch(const at::Tensor& product, const ExpertRouting& routing = {}) const;

 private:
  int64_t layer_;
  bool routes_;
  std::unique_ptr<ForwardPass> pass_;
};

// Final norm, output EmbProj and head: logits as forward_logits.
at::Tensor forward_head(const ParameterStore& store, const at::Tensor& x_BTD,
                        const ForwardOptions& options = {});

// Final normalised state after the output EmbProj, [B,T,D], in the compute type. tokens_BT: int64
// on the store's device, every id in [0, V).
at::Tensor forward_hidden(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options = {});

// fp32 logits [B,T,V] (fp64 where the store's tensors are fp64).
at::Tensor forward_logits(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options = {});

// Logits of rows [.., D] of forward_hidden's result, as forward_logits gives them; with `fast` by
// fast_linear (osp/ops/linear.h), as packed passes are.
at::Tensor logits_of_hidden(const ParameterStore& store, const at::Tensor& hidden,
                            Tap* tap = nullptr, bool fast = false);

// Sum over all positions of −log p(target), fp32 scalar, without ever holding all logits. Targets
// int64 [B,T]; negative ones are not scored. With options.training, calling .backward() on it adds
// d(sum · loss_scale)/dw into the gradient banks.
at::Tensor forward_loss_sum(const ParameterStore& store, const at::Tensor& tokens_BT,
                            const at::Tensor& targets_BT, const ForwardOptions& options = {},
                            double loss_scale = 1.0);

}  // namespace osp
