// The orthonormal Hadamard transform of rows: y = x · H_n / sqrt(n), for every n = 2^k · m that
// osp/ops/hadamard_matrix.h knows a matrix of.
//
// H_n = H_{2^k} ⊗ H_m: each row, seen as [2^k, m], is multiplied by H_m on the right (a small dense
// product) and then by the Sylvester part with k rounds of sums and differences: n (m + k)
// additions a row in place of n².
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "osp/ops/hadamard_matrix.h"

namespace osp {

struct HadamardOptions {
  // Numbers that are transformed together, a divisor of the last dimension (block-diagonal H);
  // 0: all.
  int64_t block = 0;
  // By Hᵀ: the inverse. The same for powers of two, where H is symmetric.
  bool transposed = false;
};

// Over the last dimension of x; result in x's shape and type. fp64 for fp64, otherwise fp32 inside.
// Differentiable. Error(unsupported) from check_hadamard_size; OSP_CHECK that the block divides.
at::Tensor hadamard_transform(const at::Tensor& x, const HadamardOptions& options = {});

// Naive twin: the dense product in fp64, result in x's shape and type.
at::Tensor hadamard_transform_reference(const at::Tensor& x, const HadamardOptions& options = {});

}  // namespace osp
