// The feed-forward network of a block beyond its linear layers: the gated product, and a
// mixture of experts.
//
// Tested by transformer_test.cpp, expert_routing_test.cpp and tests/python/test_experts.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "osp/model/expert_routing.h"
#include "osp/model/parameter_access.h"

namespace osp {

// act(gate) · up of [gate | up], [.., 2 F]; the clamped SwiGLU where the model has it (config.h).
RecomputableInput gated_product(const at::Tensor& gate_up, const ModelConfig& config);

// The inputs of the experts' down projections, [B, k, T, F]: each expert computes the rows of its
// tokens of x [B, T, D].
at::Tensor expert_products(const ParameterAccess& parameters, const ModelConfig& config,
                           int64_t layer, const at::Tensor& x_BTD, const ExpertRouting& routing);

// Σ over a token's experts of w · down(product), [B, T, D], added in the order of the experts.
at::Tensor expert_sum(const ParameterAccess& parameters, const ModelConfig& config, int64_t layer,
                      const at::Tensor& products, const ExpertRouting& routing);

// Error(unsupported) for a model with experts, which osp does not train.
void check_trainable(const ModelConfig& config);

}  // namespace osp
