#include "osp/model/gguf_names.h"

#include <string_view>

#include "osp/base/error.h"

namespace osp {
namespace {

enum class RowOrder { ours, query_heads, key_heads };

// llama.cpp's name of a role's weight, in a block behind "blk.N.", and the order of its rows.
struct GgufWeight {
  std::string_view name = "";  // "": its llama has no such tensor
  RowOrder rows = RowOrder::ours;
};

GgufWeight gguf_weight(ParameterRole role) {
  switch (role) {
    case ParameterRole::embedding:
      return {"token_embd.weight"};
    case ParameterRole::input_norm:
      return {"attn_norm.weight"};
    case ParameterRole::query:
      return {"attn_q.weight", RowOrder::query_heads};
    case ParameterRole::key:
      return {"attn_k.weight", RowOrder::key_heads};
    case ParameterRole::value:
      return {"attn_v.weight"};
    case ParameterRole::attention_output:
      return {"attn_output.weight"};
    case ParameterRole::post_attention_norm:
      return {"ffn_norm.weight"};
    case ParameterRole::gate:
      return {"ffn_gate.weight"};
    case ParameterRole::up:
      return {"ffn_up.weight"};
    case ParameterRole::down:
      return {"ffn_down.weight"};
    case ParameterRole::final_norm:
      return {"output_norm.weight"};
    case ParameterRole::head:
      return {"output.weight"};
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::embedding_norm:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::head_projection:
      return {};
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(role));
}

// Biases have no tensor in a llama.
GgufWeight gguf_weight(const ParameterSpec& spec) {
  return spec.kind == ParameterKind::bias ? GgufWeight{} : gguf_weight(spec.role);
}

}  // namespace

std::string gguf_tensor_name(const ParameterSpec& spec) {
  const std::string_view name = gguf_weight(spec).name;
  if (name.empty() || spec.layer < 0) return std::string(name);
  return fmt::format("blk.{}.{}", spec.layer, name);
}

int64_t gguf_permuted_heads(const ParameterSpec& spec, const ModelConfig& config) {
  switch (gguf_weight(spec).rows) {
    case RowOrder::ours:
      return 0;
    case RowOrder::query_heads:
      return config.heads;
    case RowOrder::key_heads:
      return config.kv_heads;
  }
  OSP_CHECK(false, "unknown order of rows");
}

std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads) {
  OSP_CHECK(heads > 0 && rows % (2 * heads) == 0, "{} rows in {} heads", rows, heads);
  const int64_t K = rows / heads;
  std::vector<int64_t> order;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < K / 2; ++i) {
      for (int64_t s = 0; s < 2; ++s) order.push_back(h * K + s * (K / 2) + i);
    }
  }
  return order;
}

}  // namespace osp
