// Sums of outer products of rows, the Hessian of a linear layer's squared error:
//
//   G += XᵀX       X [n, k]; fp32 sums of exact products, only the blocks on and above the diagonal
//
// Half of the work of the full product. bf16 rows are multiplied as they are where the CPU can do
// so (AVX-512 with BF16), otherwise they are widened to fp32 first.
#pragma once

#include <ATen/core/Tensor.h>

namespace osp {

// x [n, k] fp32 or bf16, gram fp32 [k, k], contiguous. Entries below the diagonal are left with
// values of no meaning.
void add_gram(at::Tensor& gram, const at::Tensor& x);

// Naive twin: the full product in fp64.
at::Tensor gram_reference(const at::Tensor& x);

}  // namespace osp
