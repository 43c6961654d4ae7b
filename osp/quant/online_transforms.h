// Computations of the forward pass without which a model whose weights were rotated beforehand
// would give other logits: the online Hadamards of QuaRot and SpinQuant.
//
// Tested by osp/ptq/rotation_test.cpp.
#pragma once

#include <cstdint>

namespace osp {

struct OnlineTransforms {
  // R3: queries and keys, after RoPE, are multiplied by the orthonormal Hadamard matrix of a head.
  // No weight changes; it only matters where keys are quantized and is applied only there.
  bool query_key_hadamard = true;
  // R4: the input of the down projection is multiplied by the orthonormal Hadamard matrix of the
  // inner size (no random signs); W_down holds the product with the same matrix.
  bool down_hadamard = false;
  // Size of the diagonal blocks of R4, a divisor of the inner size; 0: one block.
  int64_t down_block = 0;

  bool operator==(const OnlineTransforms&) const = default;
};

}  // namespace osp
