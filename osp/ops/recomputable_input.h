// A tensor on its way into a linear layer, together with the operands that it can be computed from
// again. The backward pass of a linear layer reads its input once more; where that is the result of
// a norm or of SwiGLU, it is recomputed from the operands, which their own backward passes keep
// anyway, to the same bits.
//
// Tested by osp/ops/linear_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace osp {

// A tensor by itself (the implicit conversion) is kept as it is. `value` is never changed in place;
// the gradient of a linear layer on SwiGLU's result goes to the operand, past `value`.
struct RecomputableInput {
  enum class Origin { none, rms_norm, swiglu };

  at::Tensor value;
  Origin origin = Origin::none;
  // rms_norm: r, 1 / sqrt(mean(r²) + eps) of each row in fp32, gain; swiglu: [gate | up].
  std::vector<at::Tensor> operands;

  RecomputableInput(at::Tensor tensor) : value(std::move(tensor)) {}
  RecomputableInput(at::Tensor tensor, Origin from, std::vector<at::Tensor> of)
      : value(std::move(tensor)), origin(from), operands(std::move(of)) {}
};

}  // namespace osp
