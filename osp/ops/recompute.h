// Part of a graph that is not kept but computed a second time in the backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace osp {

using TensorFunction = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

// function(inputs) of one or two tensors, all defined and floating. With a graph only the inputs
// are kept; the backward pass calls the function again, on the same values, and goes through the
// graph that it builds then: on a CPU gradients have the bits that they have without. What the
// function adds to by itself in its backward pass (the gradients of WeightRefs) is added to once.
// The graph keeps the function, and the function what it needs: of tensors with gradients leaves
// and WeightRefs only. One input at least requires grad. Without gradient mode it is a plain call.
std::vector<at::Tensor> recomputed(const std::vector<at::Tensor>& inputs,
                                   const TensorFunction& function);

}  // namespace osp
