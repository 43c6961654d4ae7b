#include "osp/model/feed_forward.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "osp/base/error.h"
#include "osp/ops/layer_norm.h"
#include "osp/ops/swiglu.h"

namespace osp {

RecomputableInput gated_product(const at::Tensor& gate_up, const ModelConfig& config) {
  const double limit = config.swiglu_limit;
  if (limit == 0 && config.activation == "silu") return swiglu(gate_up);
  const auto halves = gate_up.chunk(2, -1);
  if (limit == 0) return activation(halves[0], config.activation) * halves[1];
  const at::Tensor gate = halves[0].clamp_max(limit), up = halves[1].clamp(-limit, limit);
  return (up + 1.0) * (gate * (gate * config.swiglu_alpha).sigmoid());
}

at::Tensor expert_products(const ParameterAccess& parameters, const ModelConfig& config,
                           int64_t layer, const at::Tensor& x_BTD, const ExpertRouting& routing) {
  const int64_t k = config.experts_per_token, F = config.expert_inner;
  const at::Tensor rows = x_BTD.reshape({-1, config.width});
  at::Tensor products = at::empty({rows.size(0) * k, F}, rows.options());
  for (int64_t expert = 0; expert < config.experts; ++expert) {
    const ExpertRows& own = routing.rows[static_cast<size_t>(expert)];
    if (own.tokens.numel() == 0) continue;
    const at::Tensor gate_up =
        parameters.linear({ParameterRole::gate, ParameterRole::up}, layer,
                          rows.index_select(0, own.tokens), config.expert_bias, expert);
    products.index_copy_(0, own.places, gated_product(gate_up, config).value);
  }
  return products.view({routing.sequences, k, routing.length, F});
}

at::Tensor expert_sum(const ParameterAccess& parameters, const ModelConfig& config, int64_t layer,
                      const at::Tensor& products, const ExpertRouting& routing) {
  const at::Tensor rows = products.reshape({-1, config.expert_inner});
  at::Tensor sum = at::zeros({routing.sequences * routing.length, config.width}, rows.options());
  for (int64_t expert = 0; expert < config.experts; ++expert) {
    const ExpertRows& own = routing.rows[static_cast<size_t>(expert)];
    if (own.tokens.numel() == 0) continue;
    const at::Tensor y = parameters.linear(
        {ParameterRole::down}, layer, rows.index_select(0, own.places), config.expert_bias, expert);
    sum.index_add_(0, own.tokens, y * own.weights);
  }
  return sum.view({routing.sequences, routing.length, config.width});
}

void check_trainable(const ModelConfig& config) {
  if (config.experts == 0) return;
  fail(ErrorCode::unsupported,
       "osp does not train models with experts, nor learn anything from their gradients; it reads, "
       "measures and quantizes them");
}

}  // namespace osp
