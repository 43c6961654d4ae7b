// Causal attention for training on CPUs with bf16 products, forward and backward, without a T × T
// tensor and without copies of the key heads that a group of query heads shares.
#pragma once

#include <ATen/core/Tensor.h>

namespace osp {

// True if fused_attention supports such queries [B, T, H, K]: bf16 on a CPU with AVX-512 bf16
// products (or AMX), K even.
bool has_fused_attention(const at::Device& device, at::ScalarType type, int64_t head_size);
bool has_fused_attention(const at::Tensor& q_BTHK);

// softmax(q kᵀ / sqrt(K)) v where query t sees the keys first(t) … t. q [B, T, H, K], k and v [B,
// T, Hkv, K], bf16 with Hkv a divisor of H; first_BT [B, T] or [1, T] int32 with 0 ≤ first ≤ t that
// do not decrease along T, undefined for 0. Products are bf16 with fp32 sums, the probabilities are
// rounded to bf16. Gives [B, T, H, K]; differentiable in q, k and v. The result does not depend on
// the number of threads.
at::Tensor fused_attention(const at::Tensor& q_BTHK, const at::Tensor& k_BTHK,
                           const at::Tensor& v_BTHK, const at::Tensor& first_BT = {});

}  // namespace osp
