#include "osp/ptq/rotation_family.h"

#include <ATen/ops/ones.h>

#include <array>
#include <string_view>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr double kLargestMeanError = 1e-10;  // fp64 sums over the width

struct Role {
  std::string_view name;
  Basis input, output;
  std::string_view norm;
};

// Linear layers of a block.
constexpr std::array<Role, 7> kRoles = {{
    {"self_attn.q_proj", Basis::residual, Basis::fixed, "input_layernorm"},
    {"self_attn.k_proj", Basis::residual, Basis::fixed, "input_layernorm"},
    {"self_attn.v_proj", Basis::residual, Basis::heads, "input_layernorm"},
    {"self_attn.o_proj", Basis::heads, Basis::residual, ""},
    {"mlp.gate_proj", Basis::residual, Basis::fixed, "post_attention_layernorm"},
    {"mlp.up_proj", Basis::residual, Basis::fixed, "post_attention_layernorm"},
    {"mlp.down_proj", Basis::inner, Basis::residual, ""},
}};

std::string block_of(const ParameterSpec& spec) {
  return fmt::format("model.layers.{}.", spec.layer);
}

// "model.layers.3.mlp.up_proj.weight" or .bias → the row of mlp.up_proj; null if there is none.
const Role* role_of(const ParameterSpec& spec) {
  const size_t begin = block_of(spec).size();
  const std::string name = spec.name.substr(begin, spec.name.rfind('.') - begin);
  for (const Role& role : kRoles) {
    if (role.name == name) return &role;
  }
  return nullptr;
}

// 1ᵀ Q = 1ᵀ
bool keeps_mean(const Rotation& q) {
  const at::Tensor ones = at::ones({1, q.size()}, at::kDouble);
  return q.apply(ones).sub(ones).abs().max().item<double>() < kLargestMeanError;
}

void check_residual(const ModelConfig& config, const RotationPlan& plan) {
  if (config.norm_after) {
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream) is not exact for this family: its norms follow the "
         "blocks, so their weights per channel (post_feedforward_layernorm) act on the rotated "
         "branch and cannot be folded. Use the FFN Hadamard or GPTQ alone");
  }
  if (config.layer_norm() && plan.residual && !keeps_mean(*plan.residual)) {
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream) is not exact for LayerNorm unless it keeps the mean "
         "over channels, which a learned one does not: use QuaRot, whose R1 does");
  }
  for (const ParameterSpec& spec : parameter_specs(config)) {
    const bool known = spec.layer < 0 || spec.shape.size() != 2 || role_of(spec) != nullptr;
    if (known) continue;
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream): not known how {} takes part in it. Use the FFN "
         "Hadamard or GPTQ alone",
         spec.name);
  }
}

}  // namespace

Sides sides_of(const ParameterStore& store, const ParameterSpec& spec) {
  if (spec.name == "model.embed_tokens.weight" || spec.name == "model.embed_positions.weight") {
    return {.input = Basis::residual};
  }
  if (spec.name == "lm_head.weight") return {.input = Basis::residual, .norm = "model.norm"};
  const Role* role = spec.layer < 0 ? nullptr : role_of(spec);
  if (role == nullptr) return {};
  std::string norm = role->norm.empty() ? "" : block_of(spec) + std::string(role->norm);
  // Branches side by side may share the first norm.
  if (store.find(norm + ".weight") < 0 && !norm.empty()) norm = block_of(spec) + "input_layernorm";
  return {.input = role->input, .output = role->output, .norm = norm};
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
