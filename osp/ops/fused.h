// Fused operators of the transformer, differentiable, on CPU tensors of type float or bfloat16
// (fp32 arithmetic inside); on other devices the reference twins run. Weight gradients do not pass
// through the graph: they are added in fp32 into the tensor that the caller gives, so micro-batches
// never accumulate in bf16.
//
// Shapes: N tokens (B·T), D width, H heads, K head size, F inner size, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <tuple>
#include <utility>
#include <vector>

#include "osp/ops/rope_scaling.h"

namespace osp {

// A weight as an operator sees it: the values in the compute type, and where its fp32 gradient is
// added (undefined: not wanted).
struct WeightRef {
  at::Tensor value;
  at::Tensor gradient;
};

// A tensor on its way into a linear layer, and what it can be made from again. The backward pass of
// a linear layer reads its input once more; where that is the result of a norm or of SwiGLU, it is
// computed again from the operands, which their own backward passes keep anyway, to the same bits.
// A tensor by itself (the implicit conversion) is kept as it is. `value` is never changed in place;
// the gradient of a linear layer on SwiGLU's result goes to the operand, past `value`.
struct Activation {
  enum class Origin { none, rms_norm, swiglu };

  at::Tensor value;
  Origin origin = Origin::none;
  // rms_norm: r, 1 / sqrt(mean(r²) + eps) of each row in fp32, gain; swiglu: [gate | up].
  std::vector<at::Tensor> operands;

  Activation(at::Tensor tensor) : value(std::move(tensor)) {}
  Activation(at::Tensor tensor, Origin from, std::vector<at::Tensor> of)
      : value(std::move(tensor)), origin(from), operands(std::move(of)) {}
};

// y = gain · r / sqrt(mean(r²) + eps) over the last dimension of x [..., D], r = x.
// gain: fp32 [1] (SSNorm), [D] (RMSNorm) or undefined (Simple RMSNorm).
Activation rms_norm(const at::Tensor& x, const WeightRef& gain, double eps);
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& gain, double eps);

// (r, rms_norm(r)) with r = x + branch, in one pass.
std::tuple<at::Tensor, Activation> add_rms_norm(const at::Tensor& x, const at::Tensor& branch,
                                                const WeightRef& gain, double eps);

// cos and sin of position · f_i, f_i = theta^(−2i/K) after scaling, fp32
// [positions, K/2] each, computed in fp64. head_size: the channels that are
// rotated. Made on the CPU; the operators want them where their input is.
struct RopeTables {
  at::Tensor cos, sin;
};
RopeTables make_rope_tables(int64_t positions, int64_t head_size, double theta,
                            const RopeScaling& scaling = {});

// Half-split rotation of x [B, T, H, K] (last dimension contiguous) by the positions first,
// first+1, …
at::Tensor rope(const at::Tensor& x_BTHK, const RopeTables& tables, int64_t first_position);
at::Tensor rope_reference(const at::Tensor& x_BTHK, const RopeTables& tables,
                          int64_t first_position);

// Splits qkv [B, T, (H + 2 Hkv) K] and rotates q and k in one pass: (q [B,T,H,K], k [B,T,Hkv,K],
// v [B,T,Hkv,K]).
std::tuple<at::Tensor, at::Tensor, at::Tensor> split_rope(const at::Tensor& qkv_BTC, int64_t heads,
                                                          int64_t kv_heads,
                                                          const RopeTables& tables,
                                                          int64_t first_position);

// silu(gate) · up for gate_up [..., 2F] = [gate | up].
Activation swiglu(const at::Tensor& gate_up);
at::Tensor swiglu_reference(const at::Tensor& gate_up);

// x [..., in] · Wᵀ for W [out, in]; the gradient of W is added into weight.gradient. Until the
// backward pass it keeps x, or the operands that x is made from.
at::Tensor linear(const Activation& x, const WeightRef& weight);

// Rows of the table [V, D] for ids [...]; the gradient is scattered into table.gradient in the
// order of the ids, whatever the number of threads. `anchor` is any tensor that requires grad, so
// that a graph exists (ids have none); undefined outside training.
at::Tensor embedding(const at::Tensor& ids, const WeightRef& table, const at::Tensor& anchor);

// A weight as a differentiable tensor whose gradient is added into weight.gradient: the general
// path for taps that replace weights.
at::Tensor weight_leaf(const WeightRef& weight, const at::Tensor& anchor);

// Σ −log softmax(h · Wᵀ)[target] over rows of h [N, D] with target ≥ 0, as an fp32 scalar. Logits
// exist for a chunk of rows at a time. With gradients, those of `loss_scale` · sum are computed on
// the way; the incoming gradient must be 1.
at::Tensor linear_cross_entropy(const at::Tensor& h_ND, const WeightRef& weight,
                                const at::Tensor& targets_N, double loss_scale, bool with_gradient);
at::Tensor linear_cross_entropy_reference(const at::Tensor& h_ND, const at::Tensor& weight,
                                          const at::Tensor& targets_N);

// sum += x elementwise, sum fp32, both contiguous and of equal size; x float or bfloat16.
void accumulate(const at::Tensor& sum, const at::Tensor& x);

}  // namespace osp
