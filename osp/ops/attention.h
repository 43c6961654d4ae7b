// Causal attention, q [B, T, H, K], k and v [B, S, Hkv, K] (S ≥ T: earlier tokens from a cache) ->
// [B, T, H, K]; softmax(q kᵀ / sqrt(K)) v with query t seeing keys up to t + S − T.
//
// With sinks s [H], a logit for each query head that belongs to no key, the weights of the keys are
// e^z_j / (e^s + Σ_i e^z_i): those without the sink times σ(log Σ_i e^z_i − s).
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace osp {

// Additive mask [B, 1, T, T]: 0 where key ≤ query and both have the same document number, −inf
// elsewhere, in the given type.
at::Tensor document_mask(const at::Tensor& documents_BT, at::ScalarType type);

// Additive mask [1, 1, T, S] of the last T of S tokens: 0 where a query sees a key among the
// `window` newest ones up to itself, −inf elsewhere (later keys included).
at::Tensor window_mask(int64_t queries, int64_t keys, int64_t window, const at::Tensor& like);

// The first key that each query sees, int32 [B, T] or [1, T]: the first token of its document
// (documents_BT may be undefined; numbers do not decrease along T), or the oldest of the `window`
// newest ones up to itself (0: any number). Undefined where every query sees all up to itself.
at::Tensor first_keys(const at::Tensor& documents_BT, int64_t length, int64_t window);

// The keys up to itself that a query sees: all if both are undefined. first_BT is for devices and
// types with has_fused_attention, the additive mask for all others.
struct VisibleKeys {
  at::Tensor first_BT;
  at::Tensor mask;
};

// Fused attention where it is supported (fused_attention.h), else flash attention of the tensor
// library; both forward and backward. With sinks forward alone, and by a mask where it takes one.
// Sequences of one token have weight 1 on it: v itself, without sinks and outside of a graph.
at::Tensor causal_attention(const at::Tensor& q_BTHK, const at::Tensor& k_BSHK,
                            const at::Tensor& v_BSHK, const VisibleKeys& visible = {},
                            const at::Tensor& sinks_H = {});

// The keys' share of the softmax, log_sum being that of their logits' exponentials.
at::Tensor share_of_keys(const at::Tensor& log_sum, const at::Tensor& sinks);

// The twin: explicit products in fp32. `on_logits` (may be empty) gets the scaled logits
// [B, H, T, S] before masking and returns them or a replacement.
at::Tensor causal_attention_reference(
    const at::Tensor& q_BTHK, const at::Tensor& k_BSHK, const at::Tensor& v_BSHK,
    const at::Tensor& mask, const std::function<at::Tensor(const at::Tensor&)>& on_logits = {},
    const at::Tensor& sinks_H = {});

// z → cap · tanh(z / cap) as on_logits of it; empty for a cap of 0.
std::function<at::Tensor(const at::Tensor&)> soft_cap(double cap);

}  // namespace osp
