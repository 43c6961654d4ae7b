#include "osp/quant/rotation_family.h"

#include <array>
#include <string_view>

#include "osp/base/error.h"

namespace osp {
namespace {

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

void check_residual(const ParameterStore& store) {
  const ModelConfig& config = store.config;
  if (store.find("model.layers.0.post_feedforward_layernorm.weight") >= 0) {
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream) is not exact for this family: its norms follow the "
         "blocks, so their weights per channel (post_feedforward_layernorm) act on the rotated "
         "branch and cannot be folded. Use the FFN Hadamard or GPTQ alone");
  }
  if (config.norm != "rms") {
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream) is not exact for norm \"{}\": only RMSNorm commutes "
         "with rotations. Use the FFN Hadamard or GPTQ alone",
         config.norm);
  }
  for (const ParameterSpec& spec : store.specs) {
    const bool known = spec.layer < 0 || spec.shape.size() != 2 || role_of(spec) != nullptr;
    const bool norm_bias = spec.name.ends_with("norm.bias");
    if (known && !norm_bias) continue;
    fail(ErrorCode::unsupported,
         "R1 (rotation of the residual stream): not known how {} takes part in it. Use the FFN "
         "Hadamard or GPTQ alone",
         spec.name);
  }
}

}  // namespace

Sides sides_of(const ParameterSpec& spec) {
  if (spec.kind == ParameterKind::embedding) return {.input = Basis::residual};
  if (spec.kind == ParameterKind::head) return {.input = Basis::residual, .norm = "model.norm"};
  const Role* role = spec.layer < 0 ? nullptr : role_of(spec);
  if (role == nullptr) return {};
  const std::string norm = role->norm.empty() ? "" : block_of(spec) + std::string(role->norm);
  return {.input = role->input, .output = role->output, .norm = norm};
}

void check_rotations_exact(const ParameterStore& store, const RotationPlan& plan) {
  if (plan.residual || plan.fold_norms) check_residual(store);
  OSP_CHECK(!plan.residual || plan.residual->size() == store.config.width,
            "R1 of order {} for a residual stream of width {}", plan.residual->size(),
            store.config.width);
  for (const Rotation& q : plan.values) {
    OSP_CHECK(q.size() == store.config.head_size, "R2 of order {} for heads of size {}", q.size(),
              store.config.head_size);
  }
}

}  // namespace osp
