// Products that are symmetric, by the tensor library, with little more than half of the work.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace osp {

// out ← beta · sum + alpha · left right, rounded once, where sum and left right are symmetric
// ([n, n], all of one type; sum is not read if beta is 0). Blocks of `block` rows are computed up
// to the diagonal and mirrored. out may not be an operand.
void symmetric_product(const at::Tensor& out, const at::Tensor& left, const at::Tensor& right,
                       double alpha, const at::Tensor& sum, double beta, int64_t block = 256);

}  // namespace osp
