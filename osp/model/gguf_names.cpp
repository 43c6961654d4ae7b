#include "osp/model/gguf_names.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "osp/base/error.h"

namespace osp {
namespace {

// An OLMo 3 is an olmo2 with windows.
constexpr std::array<GgufArchitecture, 17> kArchitectures = {{
    {"llama", "LlamaForCausalLM", true},
    {"qwen2", "Qwen2ForCausalLM", false},
    {"qwen3", "Qwen3ForCausalLM", false},
    {"olmo2", "Olmo2ForCausalLM", false},
    {"olmo2", "Olmo3ForCausalLM", false},
    {"smollm3", "SmolLM3ForCausalLM", true},
    {"gemma2", "Gemma2ForCausalLM", false},
    {"gemma3", "Gemma3ForCausalLM", false},
    {"phi3", "Phi3ForCausalLM", false, true, true},
    {"granite", "GraniteForCausalLM", true},
    {"glm4", "Glm4ForCausalLM", true, false, true},
    {"seed_oss", "SeedOssForCausalLM", false},
    {"arcee", "ArceeForCausalLM", true},
    {"ernie4_5", "Ernie4_5ForCausalLM", true},
    {"qwen3moe", "Qwen3MoeForCausalLM", false},
    {"olmoe", "OlmoeForCausalLM", false},
    {"gpt-oss", "GptOssForCausalLM", false},
}};

// llama.cpp's name of a role, in a block behind "blk.N." and in front of ".weight" or ".bias";
// "": no architecture here has such a tensor.
std::string_view gguf_stem(const ParameterSpec& spec, const ModelConfig& config) {
  const GgufArchitecture* architecture = gguf_architecture_of(config);
  const bool joined_qkv = architecture != nullptr && architecture->joined_qkv;
  const bool joined_gate_up = architecture != nullptr && architecture->joined_gate_up;
  const bool expert = spec.expert != kNoExpert;
  switch (spec.role) {
    case ParameterRole::embedding:
      return "token_embd";
    case ParameterRole::input_norm:
      return "attn_norm";
    case ParameterRole::query:
      return joined_qkv ? "attn_qkv" : "attn_q";
    case ParameterRole::key:
      return joined_qkv ? "attn_qkv" : "attn_k";
    case ParameterRole::value:
      return joined_qkv ? "attn_qkv" : "attn_v";
    case ParameterRole::query_norm:
      return "attn_q_norm";
    case ParameterRole::key_norm:
      return "attn_k_norm";
    case ParameterRole::attention_output:
      return "attn_output";
    case ParameterRole::attention_end_norm:
      return "post_attention_norm";
    case ParameterRole::attention_sink:
      return "attn_sinks";
    // In front of the feed-forward network, or behind attention; seed_oss and gpt-oss call the
    // first the second.
    case ParameterRole::post_attention_norm: {
      const bool other =
          config.family == "SeedOssForCausalLM" || config.family == "GptOssForCausalLM";
      return config.norm_after || other ? "post_attention_norm" : "ffn_norm";
    }
    case ParameterRole::router:
      return "ffn_gate_inp";
    case ParameterRole::gate:
      return expert ? "ffn_gate_exps" : joined_gate_up ? "ffn_up" : "ffn_gate";
    case ParameterRole::up:
      return expert ? "ffn_up_exps" : "ffn_up";
    case ParameterRole::down:
      return expert ? "ffn_down_exps" : "ffn_down";
    case ParameterRole::post_feedforward_norm:
      return "post_ffw_norm";
    case ParameterRole::final_norm:
      return "output_norm";
    case ParameterRole::head:
      return "output";
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::embedding_norm:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::head_projection:
      return "";
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(spec.role));
}

}  // namespace

const GgufArchitecture* find_gguf_architecture(std::string_view name) {
  const auto* found = std::ranges::find(kArchitectures, name, &GgufArchitecture::name);
  return found == kArchitectures.end() ? nullptr : found;
}

std::string gguf_architectures() {
  std::vector<std::string_view> names;
  for (const GgufArchitecture& architecture : kArchitectures) {
    if (names.empty() || names.back() != architecture.name) names.push_back(architecture.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

const GgufArchitecture* gguf_architecture_of(const ModelConfig& config) {
  // Ours without parts of our own, and a Mistral without window, are Llamas.
  const bool llama = config.family.empty() || config.family == "MistralForCausalLM";
  const std::string_view family = llama ? "LlamaForCausalLM" : std::string_view(config.family);
  const auto* found = std::ranges::find(kArchitectures, family, &GgufArchitecture::family);
  return found == kArchitectures.end() ? nullptr : found;
}

std::string gguf_tensor_name(const ParameterSpec& spec, const ModelConfig& config) {
  const std::string_view stem = gguf_stem(spec, config);
  if (stem.empty()) return "";
  const char* end = spec.kind == ParameterKind::bias ? "bias" : "weight";
  return spec.layer < 0 ? fmt::format("{}.{}", stem, end)
                        : fmt::format("blk.{}.{}.{}", spec.layer, stem, end);
}

int64_t gguf_permuted_heads(const ParameterSpec& spec, const ModelConfig& config) {
  const GgufArchitecture* architecture = gguf_architecture_of(config);
  if (architecture == nullptr || !architecture->neighbours) return 0;
  if (spec.role == ParameterRole::query) return config.heads;
  return spec.role == ParameterRole::key ? config.kv_heads : 0;
}

std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads, int64_t rotated) {
  OSP_CHECK(heads > 0 && rows % (2 * heads) == 0, "{} rows in {} heads", rows, heads);
  const int64_t K = rows / heads;
  const int64_t R = rotated > 0 ? rotated : K;
  std::vector<int64_t> order;
  for (int64_t h = 0; h < heads; ++h) {
    for (int64_t i = 0; i < R / 2; ++i) {
      for (int64_t s = 0; s < 2; ++s) order.push_back(h * K + s * (R / 2) + i);
    }
    for (int64_t i = R; i < K; ++i) order.push_back(h * K + i);
  }
  return order;
}

std::vector<GgufStoredTensor> gguf_stored_tensors(const std::vector<ParameterSpec>& specs,
                                                  const ModelConfig& config) {
  std::vector<GgufStoredTensor> tensors;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::string name = gguf_tensor_name(specs[i], config);
    OSP_CHECK(!name.empty(), "{} has no name in a GGUF file", specs[i].name);
    const bool expert = specs[i].expert != kNoExpert;
    // Parameters that share a tensor are of one block: look behind the others.
    const auto last = std::find_if(tensors.rbegin(), tensors.rend(),
                                   [&](const auto& tensor) { return tensor.name == name; });
    if (last == tensors.rend()) {
      GgufStoredTensor tensor{name, {static_cast<int64_t>(i)}, specs[i].shape};
      if (expert) tensor.shape.insert(tensor.shape.begin(), 1);
      tensors.push_back(std::move(tensor));
      continue;
    }
    last->parameters.push_back(static_cast<int64_t>(i));
    last->shape[0] += expert ? 1 : specs[i].shape[0];
  }
  return tensors;
}

}  // namespace osp
