// Causal attention, q [B, T, H, K], k and v [B, S, Hkv, K] (S ≥ T: earlier tokens from a cache) ->
// [B, T, H, K]; softmax(q kᵀ / sqrt(K)) v with query t seeing keys up to t + S − T.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace osp {

// Additive mask [B, 1, T, T]: 0 where key ≤ query and both have the same document number, −inf
// elsewhere, in the given type.
at::Tensor document_mask(const at::Tensor& documents_BT, at::ScalarType type);

// Additive mask [1, 1, T, S] of the last T of S tokens: 0 where a query sees a
// key among the `window` newest ones up to itself, −inf elsewhere (later keys
// included).
at::Tensor window_mask(int64_t queries, int64_t keys, int64_t window, const at::Tensor& like);

// Flash attention of the tensor library, forward and backward; mask may be
// undefined (plain causal).
at::Tensor causal_attention(const at::Tensor& q_BTHK, const at::Tensor& k_BSHK,
                            const at::Tensor& v_BSHK, const at::Tensor& mask);

// The same by explicit products in fp32. `on_logits` (may be empty) gets the scaled logits
// [B, H, T, S] before masking and returns them or a replacement.
at::Tensor causal_attention_reference(
    const at::Tensor& q_BTHK, const at::Tensor& k_BSHK, const at::Tensor& v_BSHK,
    const at::Tensor& mask, const std::function<at::Tensor(const at::Tensor&)>& on_logits = {});

}  // namespace osp
