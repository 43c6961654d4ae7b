// Rotary position embedding with the half-split pairing of Llama: channel pairs (i, i + K/2) turn
// by position · f_i.
//
// Shapes: B batch, T time, H heads, Hkv key/value heads, K head size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

#include "osp/ops/rope_scaling.h"

namespace osp {

// cos and sin of position · f_i, f_i = theta^(−2i/K) after scaling, times rotary_magnitude(), fp32
// [positions, K/2] each, computed in fp64, for a text of `positions` tokens. head_size: the
// channels that are rotated. The tables are made on the CPU; the operators expect them on the
// device of their input.
struct RopeTables {
  at::Tensor cos, sin;
};
RopeTables make_rope_tables(int64_t positions, int64_t head_size, double theta,
                            const RopeScaling& scaling = {});

// Rotation of x [B, T, H, K] (last dimension contiguous) by the positions first_position,
// first_position + 1, …
at::Tensor rope_reference(const at::Tensor& x_BTHK, const RopeTables& tables,
                          int64_t first_position);
at::Tensor rope(const at::Tensor& x_BTHK, const RopeTables& tables, int64_t first_position);

// Splits qkv [B, T, (H + 2 Hkv) K] and rotates q and k in one pass: (q [B,T,H,K], k [B,T,Hkv,K],
// v [B,T,Hkv,K]).
std::tuple<at::Tensor, at::Tensor, at::Tensor> split_rope(const at::Tensor& qkv_BTC, int64_t heads,
                                                          int64_t kv_heads,
                                                          const RopeTables& tables,
                                                          int64_t first_position);

}  // namespace osp
