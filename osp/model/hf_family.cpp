#include "osp/model/hf_family.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include "osp/base/error.h"
#include "osp/model/family_keys.h"
#include "osp/model/joined_experts.h"

namespace osp {
namespace {

using Renames = std::vector<std::pair<std::string, std::string>>;

const std::vector<Family>& families() {
  using namespace family_keys;
  static const std::vector<std::string> rotary = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
                                                  ".rotary_emb.sin_cached"};
  static const Renames joined_gate = {{"mlp.gate_proj.", "mlp.gate_up_proj."},
                                      {"mlp.up_proj.", "mlp.gate_up_proj."}};
  const auto with_joined_gate = [](Renames more) {
    more.insert(more.end(), joined_gate.begin(), joined_gate.end());
    return more;
  };
  static const Renames joined_layers =
      with_joined_gate({{"self_attn.q_proj.", "self_attn.qkv_proj."},
                        {"self_attn.k_proj.", "self_attn.qkv_proj."},
                        {"self_attn.v_proj.", "self_attn.qkv_proj."}});
  static const Renames gemma_norms = {{"post_attention_layernorm.", "pre_feedforward_layernorm."},
                                      {"post_self_attn_layernorm.", "post_attention_layernorm."}};
  static const Renames glm4_names =
      with_joined_gate({{"post_feedforward_layernorm.", "post_mlp_layernorm."}});
  static const std::vector<Family> all = {
      {"LlamaForCausalLM", "llama", llama, {}, rotary},
      {"MistralForCausalLM", "mistral", mistral, {}, rotary},
      {"Qwen2ForCausalLM", "qwen2", qwen2, {}, rotary},
      {"Qwen3ForCausalLM", "qwen3", qwen3, {}, rotary},
      {"Qwen3MoeForCausalLM", "qwen3_moe", qwen3_moe, {}, rotary},
      {"OlmoeForCausalLM", "olmoe", olmoe, {}, rotary},
      {"GptOssForCausalLM",
       "gpt_oss",
       gpt_oss,
       {{"mlp.gate.", "mlp.router."}},
       rotary,
       {.interleaved_experts = true}},
      {"SmolLM3ForCausalLM", "smollm3", smollm3, {}, rotary},
      {"SeedOssForCausalLM", "seed_oss", seed_oss, {}, rotary},
      {"ArceeForCausalLM", "arcee", arcee, {}, rotary},
      {"Ernie4_5ForCausalLM", "ernie4_5", ernie, {}, rotary, {.neighbour_pairs = true}},
      {"MinistralForCausalLM", "ministral", ministral, {}, rotary},
      {"Ministral3ForCausalLM", "ministral3", ministral3, {}, rotary},
      {"Phi3ForCausalLM", "phi3", phi3, joined_layers, rotary},
      {"GraniteForCausalLM", "granite", granite, {}, rotary},
      {"OlmoForCausalLM", "olmo", olmo, {}, rotary},
      {"Olmo2ForCausalLM", "olmo2", olmo2, {}, rotary},
      {"Olmo3ForCausalLM", "olmo3", olmo3, {}, rotary},
      {"Gemma2ForCausalLM", "gemma2", gemma2, gemma_norms, rotary, {.norms_from_one = true}},
      {"Gemma3ForCausalLM", "gemma3_text", gemma3, gemma_norms, rotary, {.norms_from_one = true}},
      {"GlmForCausalLM", "glm", glm, joined_gate, rotary, {.neighbour_pairs = true}},
      {"Glm4ForCausalLM", "glm4", glm4, glm4_names, rotary, {.neighbour_pairs = true}},
      {"NemotronForCausalLM", "nemotron", nemotron, {}, rotary, {.norms_from_one = true}},
      {"GPTNeoXForCausalLM",
       "gpt_neox",
       gpt_neox,
       {{"model.embed_tokens.", "gpt_neox.embed_in."},
        {"model.layers.", "gpt_neox.layers."},
        {"model.norm.", "gpt_neox.final_layer_norm."},
        {"lm_head.", "embed_out."},
        {"self_attn.q_proj.", "attention.query_key_value."},
        {"self_attn.k_proj.", "attention.query_key_value."},
        {"self_attn.v_proj.", "attention.query_key_value."},
        {"self_attn.o_proj.", "attention.dense."},
        {"mlp.up_proj.", "mlp.dense_h_to_4h."},
        {"mlp.down_proj.", "mlp.dense_4h_to_h."}},
       {".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"},
       {.joined_by_head = true}},
      {"StableLmForCausalLM", "stablelm", stable_lm, {}, rotary},
      {"OPTForCausalLM",
       "opt",
       opt,
       {{"model.norm.", "model.final_layer_norm."},
        {"self_attn.o_proj.", "self_attn.out_proj."},
        {"input_layernorm.", "self_attn_layer_norm."},
        {"post_attention_layernorm.", "final_layer_norm."},
        {"mlp.up_proj.", "fc1."},
        {"mlp.down_proj.", "fc2."},
        {"model.", "model.decoder."}},
       {}},
      {"OspForCausalLM", "osp", osp_own, {}, rotary},
  };
  return all;
}

std::string renamed(const Family& family, std::string name) {
  for (const auto& [ours, theirs] : family.renames) {
    const size_t at = name.find(ours);
    if (at != std::string::npos) name.replace(at, ours.size(), theirs);
  }
  return name;
}

const Family& family_of(const ModelConfig& config) {
  const Family* family = find_family(config.family);
  OSP_CHECK(family != nullptr, "no family {}", config.family);
  return *family;
}

}  // namespace

const Family* find_family(const std::string& architecture) {
  const std::string name = architecture.empty() ? "LlamaForCausalLM" : architecture;
  for (const Family& family : families()) {
    if (family.architecture == name) return &family;
  }
  return nullptr;
}

std::string supported_architectures() {
  std::string names;
  for (const Family& family : families()) {
    names += (names.empty() ? "" : ", ") + family.architecture;
  }
  return names;
}

std::string stored_name(const ModelConfig& config, const std::string& parameter) {
  return renamed(family_of(config), parameter);
}

ExpertLayout written_experts(const ModelConfig& config) {
  return family_of(config).layout.interleaved_experts ? ExpertLayout::interleaved
                                                      : ExpertLayout::apart;
}

std::vector<StoredTensor> stored_tensors(const ModelConfig& config,
                                         const std::vector<ParameterSpec>& specs,
                                         ExpertLayout experts) {
  const Family& family = family_of(config);
  std::vector<StoredTensor> stored;
  for (size_t i = 0; i < specs.size(); ++i) {
    const ParameterSpec& spec = specs[i];
    if (joins_experts(spec, experts)) {
      const std::string name = renamed(family, joined_expert_name(spec));
      join_expert(stored, name, experts, spec, static_cast<int64_t>(i));
      continue;
    }
    const std::string name = renamed(family, spec.name);
    // Weights (and biases) that are one tensor follow each other and have one name in the file.
    if (!stored.empty() && stored.back().name == name) {
      StoredTensor& tensor = stored.back();
      tensor.shape[0] += spec.shape[0];
      tensor.parameters.push_back(static_cast<int64_t>(i));
      tensor.rows.push_back(spec.shape[0]);
      tensor.order = family.layout.joined_by_head ? StoredOrder::by_head : StoredOrder::plain;
      continue;
    }
    StoredTensor tensor{.name = name,
                        .alias = {},
                        .shape = spec.shape,
                        .parameters = {static_cast<int64_t>(i)},
                        .rows = {spec.shape[0]}};
    // A head under a name of its own is also found under ours, as some converters write it.
    if (name == "embed_out.weight") tensor.alias = "lm_head.weight";
    const bool turned = spec.role == ParameterRole::query || spec.role == ParameterRole::key;
    if (family.layout.neighbour_pairs && turned) tensor.order = StoredOrder::neighbour_pairs;
    if (family.layout.norms_from_one && spec.kind == ParameterKind::gain) tensor.offset = 1.0;
    stored.push_back(std::move(tensor));
  }
  return stored;
}

namespace {

// The rotated rows of each head: [half, 2] of the file as [2, half], or the reverse.
at::Tensor swapped_pairs(const ModelConfig& config, const at::Tensor& rows, bool from_file) {
  const int64_t K = config.head_size, R = config.rotary_size;
  const at::Tensor heads = rows.reshape({rows.size(0) / K, K, -1});
  const int64_t outer = from_file ? R / 2 : 2, inner = from_file ? 2 : R / 2;
  const at::Tensor turned = heads.narrow(1, 0, R)
                                .reshape({heads.size(0), outer, inner, -1})
                                .transpose(1, 2)
                                .reshape({heads.size(0), R, -1});
  return at::cat({turned, heads.narrow(1, R, K - R)}, 1).reshape(rows.sizes()).contiguous();
}

}  // namespace

at::Tensor join_rows(const ModelConfig& config, const StoredTensor& stored,
                     const std::vector<at::Tensor>& parts) {
  if (stored.order == StoredOrder::neighbour_pairs) return swapped_pairs(config, parts[0], false);
  if (stored.order == StoredOrder::interleaved) return join_interleaved(stored, parts);
  if (parts.size() == 1) return parts[0];
  if (stored.order == StoredOrder::plain) return at::cat(parts);
  std::vector<at::Tensor> heads;
  for (const at::Tensor& part : parts) {
    heads.push_back(part.view({config.heads, config.head_size, -1}));
  }
  std::vector<int64_t> shape = parts[0].sizes().vec();
  shape[0] *= static_cast<int64_t>(parts.size());
  return at::stack(heads, 1).view(shape);
}

std::vector<at::Tensor> split_rows(const ModelConfig& config, const StoredTensor& stored,
                                   const at::Tensor& rows) {
  if (stored.order == StoredOrder::neighbour_pairs) return {swapped_pairs(config, rows, true)};
  if (stored.order == StoredOrder::interleaved) return split_interleaved(stored, rows);
  const int64_t count = static_cast<int64_t>(stored.parameters.size());
  if (count == 1) return {stored.shape.size() == 3 ? rows.flatten(0, 1) : rows};
  std::vector<at::Tensor> parts;
  if (stored.order == StoredOrder::plain) {
    // Of all experts one after the other.
    const at::Tensor flat = stored.shape.size() == 3 ? rows.flatten(0, 1) : rows;
    int64_t row = 0;
    for (const int64_t height : stored.rows) {
      parts.push_back(flat.narrow(0, row, height).contiguous());
      row += height;
    }
    return parts;
  }
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] /= count;
  const at::Tensor heads = rows.reshape({config.heads, count, config.head_size, -1});
  for (int64_t i = 0; i < count; ++i) {
    parts.push_back(heads.select(1, i).reshape(shape).contiguous());
  }
  return parts;
}

void scatter_stored(const StoredTensor& stored, const at::Tensor& tensor, ParameterStore& store) {
  const std::vector<at::Tensor> parts = split_rows(store.config, stored, tensor);
  for (size_t i = 0; i < parts.size(); ++i) {
    at::Tensor master = store.master(stored.parameters[i]);
    master.copy_(parts[i]);
    if (stored.offset != 0) master.add_(stored.offset);
  }
}

at::Tensor gather_stored(const StoredTensor& stored, const ParameterStore& store) {
  std::vector<at::Tensor> parts;
  for (const int64_t parameter : stored.parameters) parts.push_back(store.master(parameter));
  const at::Tensor rows = join_rows(store.config, stored, parts);
  return stored.offset != 0 ? rows - stored.offset : rows;
}

}  // namespace osp
