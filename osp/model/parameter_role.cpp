#include "osp/model/parameter_role.h"

#include <string_view>

#include "osp/base/error.h"

namespace osp {
namespace {

enum class Place { block, outside };

struct RoleRow {
  const char* module;  // its name, in a block behind "model.layers.N."
  ParameterKind kind;  // of the weight
  Place place = Place::block;
  const char* ending = ".weight";
};

RoleRow row_of(ParameterRole role) {
  using Kind = ParameterKind;
  switch (role) {
    case ParameterRole::embedding:
      return {"model.embed_tokens", Kind::embedding, Place::outside};
    case ParameterRole::position_embedding:
      return {"model.embed_positions", Kind::positions, Place::outside};
    case ParameterRole::embedding_projection:
      return {"model.embed_proj", Kind::embedding_projection, Place::outside};
    case ParameterRole::embedding_norm:
      return {"model.embed_norm", Kind::gain, Place::outside};
    case ParameterRole::input_norm:
      return {"input_layernorm", Kind::gain};
    case ParameterRole::query:
      return {"self_attn.q_proj", Kind::matrix};
    case ParameterRole::key:
      return {"self_attn.k_proj", Kind::matrix};
    case ParameterRole::value:
      return {"self_attn.v_proj", Kind::matrix};
    case ParameterRole::query_norm:
      return {"self_attn.q_norm", Kind::gain};
    case ParameterRole::key_norm:
      return {"self_attn.k_norm", Kind::gain};
    case ParameterRole::attention_sink:
      return {"self_attn.sinks", Kind::sink, Place::block, ""};
    case ParameterRole::attention_output:
      return {"self_attn.o_proj", Kind::matrix};
    case ParameterRole::attention_branch_scale:
      return {"self_attn.branch_scale", Kind::gain, Place::block, ""};
    case ParameterRole::attention_end_norm:
      return {"post_self_attn_layernorm", Kind::gain};
    case ParameterRole::post_attention_norm:
      return {"post_attention_layernorm", Kind::gain};
    case ParameterRole::router:
      return {"mlp.gate", Kind::router};
    case ParameterRole::gate:
      return {"mlp.gate_proj", Kind::matrix};
    case ParameterRole::up:
      return {"mlp.up_proj", Kind::matrix};
    case ParameterRole::down:
      return {"mlp.down_proj", Kind::matrix};
    case ParameterRole::mlp_branch_scale:
      return {"mlp.branch_scale", Kind::gain, Place::block, ""};
    case ParameterRole::post_feedforward_norm:
      return {"post_feedforward_layernorm", Kind::gain};
    case ParameterRole::final_norm:
      return {"model.norm", Kind::gain, Place::outside};
    case ParameterRole::head_projection:
      return {"lm_head_proj", Kind::embedding_projection, Place::outside};
    case ParameterRole::head:
      return {"lm_head", Kind::head, Place::outside};
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(role));
}

std::string name_of(const RoleRow& row, int64_t layer, int64_t expert, const char* ending) {
  OSP_CHECK((row.place == Place::block) == (layer >= 0), "{} in layer {}", row.module, layer);
  if (layer < 0) return fmt::format("{}{}", row.module, ending);
  if (expert < 0) return fmt::format("model.layers.{}.{}{}", layer, row.module, ending);
  constexpr std::string_view kNetwork = "mlp.";
  const std::string_view module = row.module;
  OSP_CHECK(module.starts_with(kNetwork), "{} of expert {}", module, expert);
  return fmt::format("model.layers.{}.mlp.experts.{}.{}{}", layer, expert,
                     module.substr(kNetwork.size()), ending);
}

}  // namespace

const char* kind_name(ParameterKind kind) {
  switch (kind) {
    case ParameterKind::embedding:
      return "embedding";
    case ParameterKind::head:
      return "head";
    case ParameterKind::embedding_projection:
      return "embedding projection";
    case ParameterKind::matrix:
      return "matrix";
    case ParameterKind::router:
      return "router";
    case ParameterKind::gain:
      return "gain";
    case ParameterKind::bias:
      return "bias";
    case ParameterKind::positions:
      return "positions";
    case ParameterKind::sink:
      return "attention sink";
  }
  OSP_CHECK(false, "unknown parameter kind {}", static_cast<int>(kind));
}

std::optional<BlockLinear> block_linear(ParameterRole role) {
  switch (role) {
    case ParameterRole::query:
      return BlockLinear::query;
    case ParameterRole::key:
      return BlockLinear::key;
    case ParameterRole::value:
      return BlockLinear::value;
    case ParameterRole::attention_output:
      return BlockLinear::attention_output;
    case ParameterRole::gate:
      return BlockLinear::gate;
    case ParameterRole::up:
      return BlockLinear::up;
    case ParameterRole::down:
      return BlockLinear::down;
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::embedding_norm:
    case ParameterRole::input_norm:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_sink:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_attention_norm:
    case ParameterRole::router:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::final_norm:
    case ParameterRole::head_projection:
    case ParameterRole::head:
      return std::nullopt;
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(role));
}

ParameterKind weight_kind(ParameterRole role) { return row_of(role).kind; }

std::string parameter_name(ParameterRole role, int64_t layer, int64_t expert) {
  const RoleRow row = row_of(role);
  return name_of(row, layer, expert, row.ending);
}

std::string bias_name(ParameterRole role, int64_t layer, int64_t expert) {
  return name_of(row_of(role), layer, expert, ".bias");
}

}  // namespace osp
