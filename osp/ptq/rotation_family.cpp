#include "osp/ptq/rotation_family.h"

#include <ATen/ops/ones.h>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr double kLargestMeanError = 1e-10;  // fp64 sums over the width

// 1ᵀ Q = 1ᵀ
bool keeps_mean(const Rotation& q) {
  const at::Tensor ones = at::ones({1, q.size()}, at::kDouble);
  return q.apply(ones).sub(ones).abs().max().item<double>() < kLargestMeanError;
}

void check_residual(const ModelConfig& config, const RotationPlan& plan) {
  if (!turns_residual(config)) {
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream) is not exact for this family: its norms follow the "
         "branches, so their weights per channel (post_feedforward_layernorm) act on the rotated "
         "branch and cannot be folded. Use quarot, which leaves it out here, or GPTQ alone");
  }
  if (config.layer_norm() && plan.residual && !keeps_mean(*plan.residual)) {
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream) is not exact for LayerNorm unless it keeps the mean "
         "over channels: take that of quarot or spinquant, which does");
  }
}

}  // namespace

bool turns_residual(const ModelConfig& config) { return !config.norm_after && !config.norm_around; }

Sides sides_of(const ModelConfig& config, ParameterRole role) {
  const ParameterRole mlp_norm =
      config.shared_norm ? ParameterRole::input_norm : ParameterRole::post_attention_norm;
  switch (role) {
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
      return {.input = Basis::residual};
    case ParameterRole::query:
    case ParameterRole::key:
      return {.input = Basis::residual, .norm = ParameterRole::input_norm};
    case ParameterRole::value:
      return {.input = Basis::residual, .output = Basis::heads, .norm = ParameterRole::input_norm};
    case ParameterRole::attention_output:
      return {.input = Basis::heads, .output = Basis::residual};
    case ParameterRole::router:
    case ParameterRole::gate:
    case ParameterRole::up:
      return {.input = Basis::residual, .norm = mlp_norm};
    case ParameterRole::down:
      return {.input = Basis::inner, .output = Basis::residual};
    case ParameterRole::head:
      return {.input = Basis::residual, .norm = ParameterRole::final_norm};
    // Norms of queries and keys act in a fixed basis; the other norms are vectors that rotate()
    // finds by is_residual_norm.
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_sink:
    case ParameterRole::input_norm:
    case ParameterRole::post_attention_norm:
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::final_norm:
    // Fused before rotations, see rotate().
    case ParameterRole::embedding_projection:
    case ParameterRole::head_projection:
    case ParameterRole::embedding_norm:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::mlp_branch_scale:
      return {};
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(role));
}

void check_rotations_exact(const ModelConfig& config, const RotationPlan& plan) {
  if (plan.residual || plan.fold_norms) check_residual(config, plan);
  if (!plan.values.empty() && config.clip_qkv > 0) {
    fail(ErrorCode::unsupported,
         "R2 (rotation of values) is not exact for this family: it clips queries, keys and values "
         "at ±{}, channel by channel. Use the FFN Hadamard or GPTQ alone",
         config.clip_qkv);
  }
  OSP_CHECK(!plan.residual || plan.residual->size() == config.width,
            "R1 of order {} for a residual stream of width {}", plan.residual->size(),
            config.width);
  for (const Rotation& q : plan.values) {
    OSP_CHECK(q.size() == config.head_size, "R2 of order {} for heads of size {}", q.size(),
              config.head_size);
  }
}

}  // namespace osp
