// Rotations of a model (QuaRot, SpinQuant, the paper's FFN Hadamard): weights are multiplied by
// orthogonal matrices so that activations lose their outliers while the logits stay as they are.
//
//   norms  W ← W diag(g), g ← 1            each norm's weights go into the layers that read it
//   R1     x ← x Q₁ on the residual stream: embedding rows and all that reads it W ← W Q₁, all
//          that writes it W ← Q₁ᵀ W, b ← b Q₁. Exact because ‖x Q₁‖ = ‖x‖, once norms are folded.
//   R2     v ← v Q₂ per head: W_v ← (I ⊗ Q₂)ᵀ W_v, W_o ← W_o (I ⊗ Q₂), one Q₂ per layer
//   R3     q, k ← q H, k H after RoPE: online, no weight changes
//   R4     input of the down projection ← x H: online; W_down ← W_down H
//
// Embeddings are not centred: RMSNorm subtracts no mean, and for LayerNorm R1 is drawn so that the
// mean over channels stays (random_mean_keeping). A norm's bias b becomes (b / g) Q₁.
// Plans are made by quarot.h, ffn_hadamard.h and spinquant.h. Everything is computed in fp64, one
// tensor at a time, and rounded once to the type of the store. Sources: Ashkboos et al., "QuaRot",
// 2024; Liu et al., "SpinQuant", 2024; the reference's settings.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/quant/online_transforms.h"

namespace osp {

// An orthogonal matrix Q of order n, applied to rows.
struct Rotation {
  // One of the two is defined. signs, fp64 [n] of ±1: Q = diag(signs) · H / sqrt(n), or with
  // keeps_mean Q = Hᵀ · diag(signs) · H / n. matrix, fp64 [n, n]: Q itself.
  at::Tensor signs = {};
  at::Tensor matrix = {};
  bool keeps_mean = false;
  int64_t block = 0;  // size of H, which then stands along a diagonal; 0: n

  int64_t size() const { return signs.defined() ? signs.numel() : matrix.size(0); }
  // x · Q over the last dimension of x, which must be fp64.
  at::Tensor apply(const at::Tensor& x) const;
  at::Tensor dense() const;
};

// Random signs, a pure function of (size, seed, name), and H in blocks of `block` (0: one).
// Error(usage) naming `name` if they do not divide the size, Error(unsupported) if no Hadamard
// matrix of their size is known.
Rotation random_hadamard(int64_t size, uint64_t seed, const std::string& name, int64_t block = 0);

// A random Hadamard matrix made to satisfy 1ᵀ Q = 1ᵀ, for LayerNorm: subtracting the mean over
// channels commutes with such rotations. The first row of H is all ones, so 1 Hᵀ is a multiple of
// the first unit vector, whose sign is +; entries are about normal with variance 1/n. In blocks
// every block keeps its own mean.
Rotation random_mean_keeping(int64_t size, uint64_t seed, const std::string& name,
                             int64_t block = 0);

// The largest entry of Q Qᵀ − I that a learned matrix may have.
inline constexpr double kLargestOrthogonalityError = 1e-6;

// A learned matrix. OSP_CHECK that it is orthogonal within that.
Rotation dense_rotation(const at::Tensor& matrix);

// max |Q Qᵀ − I|
double orthogonality_error(const at::Tensor& matrix);

// The rotations of one model; they are applied in the order of the list above.
struct RotationPlan {
  bool fold_norms = false;
  std::optional<Rotation> residual = {};  // R1; needs norms that are folded, here or before
  std::vector<Rotation> values = {};      // R2, one per layer, or none
  bool down = false;                      // R4
  int64_t down_block = 0;                 // size of its diagonal blocks, 0: one

  // Transforms that the forward pass must compute in addition from now on.
  OnlineTransforms online() const { return {.down_hadamard = down, .down_block = down_block}; }
};

// Error(usage) beginning with `what` if blocks of R4 do not divide the inner size (0: one block),
// Error(unsupported) if no Hadamard matrix of their size is known.
void check_down_block(const ModelConfig& config, int64_t block, const std::string& what);

// Changes the weights as planned. The store must be fused (osp/model/fuse.h): norm weights per
// channel, no EmbProj. A tied head becomes a matrix of its own where norms are folded. Errors of
// check_rotations_exact (osp/ptq/rotation_family.h); OSP_CHECK that R1 meets only folded norms.
void rotate_model(ParameterStore& store, const RotationPlan& plan);

}  // namespace osp
