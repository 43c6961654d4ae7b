// A result that was computed outside the graph, with its own backward pass.
//
// Tested by osp/ops/branch_scale_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace osp {

// y, whose gradient with respect to x is dx = backward(dy), dx in x's shape. Without a graph (no
// gradient mode, or x needs none) it is y itself and `backward` is dropped.
at::Tensor with_gradient(const at::Tensor& x, const at::Tensor& y,
                         std::function<at::Tensor(const at::Tensor& dy)> backward);

}  // namespace osp
