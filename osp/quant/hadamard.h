// The orthonormal Hadamard transform of head-sized rows: y = x · H_K / sqrt(K), H_K of Sylvester's
// construction (H_1 = 1, H_2n = [[H_n, H_n], [H_n, −H_n]]).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace osp {

// Error(unsupported) naming `what` unless `size` is a power of two.
void check_hadamard_size(int64_t size, const char* what);

// Over the last dimension of x, in fp32, by log2(K) rounds of sums and differences (distances 1, 2,
// 4, …, then one division by sqrt(K)). The result has x's shape and type.
at::Tensor hadamard_transform(const at::Tensor& x);

// Naive twin: entry (i, j) is (−1)^popcount(i & j), as a matrix [size, size] in row order.
std::vector<float> hadamard_matrix_reference(int64_t size);

}  // namespace osp
