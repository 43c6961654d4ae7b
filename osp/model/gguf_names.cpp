#include "osp/model/gguf_names.h"

#include <array>
#include <string_view>

#include "osp/base/error.h"

namespace osp {
namespace {

struct NamePair {
  std::string_view ours;
  std::string_view theirs;
};

constexpr std::array<NamePair, 3> kOutside = {{
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
}};

// Behind "model.layers.N." and "blk.N.".
constexpr std::array<NamePair, 9> kInBlock = {{
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
}};

}  // namespace

std::string gguf_tensor_name(const ParameterSpec& spec) {
  for (const NamePair& pair : kOutside) {
    if (pair.ours == spec.name) return std::string(pair.theirs);
  }
  const std::string prefix = fmt::format("model.layers.{}.", spec.layer);
  if (spec.layer < 0 || !spec.name.starts_with(prefix)) return "";
  const std::string_view part = std::string_view(spec.name).substr(prefix.size());
  for (const NamePair& pair : kInBlock) {
    if (pair.ours == part) return fmt::format("blk.{}.{}", spec.layer, pair.theirs);
  }
  return "";
}

int64_t gguf_permuted_heads(const ParameterSpec& spec, const ModelConfig& config) {
  if (spec.name.ends_with("self_attn.q_proj.weight")) return config.heads;
  if (spec.name.ends_with("self_attn.k_proj.weight")) return config.kv_heads;
  return 0;
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
