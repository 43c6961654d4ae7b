#include "osp/model/hf_family.h"

#include <ATen/ops/stack.h>

#include "osp/base/error.h"

namespace osp {
namespace {

void sizes(ConfigKeys& keys, ModelConfig& config, const char* inner, int64_t context) {
  keys.size("num_hidden_layers", "layers", config.layers);
  keys.size("hidden_size", "width", config.width);
  keys.size("num_attention_heads", "heads", config.heads);
  keys.size(inner, "inner", config.inner);
  keys.size("vocab_size", "vocabulary", config.vocabulary);
  keys.size("max_position_embeddings", "context", config.context, context);
}

// Keys that every family except OPT has beside its sizes; osp reads no quantized weights here.
void common(ConfigKeys& keys, ModelConfig& config, bool tied = false) {
  keys.flag("tie_word_embeddings", config.tied, tied);
  keys.number("initializer_range", "init_std", config.init_std, 0.02);
  keys.activation("hidden_act", config.activation, config.gated ? "silu" : "gelu");
  keys.fixed("quantization_config", nullptr);
}

// Key and value heads; null means all heads, a key that is absent the family's default.
void kv_heads(ConfigKeys& keys, ModelConfig& config, int64_t absent) {
  const char* key = "num_key_value_heads";
  keys.size(key, "kv_heads", config.kv_heads, keys.is_null(key) ? config.heads : absent);
}

void no_window(ConfigKeys& keys) {
  keys.fixed("sliding_window", nullptr);
  keys.fixed("layer_types", nullptr);
}

// One key for the biases of all four projections of attention.
void attention_bias(ConfigKeys& keys, ModelConfig& config, bool absent) {
  bool biased = config.qkv_bias && config.output_bias;
  keys.flag("attention_bias", biased, absent);
  if (keys.reads()) config.qkv_bias = config.output_bias = biased;
}

void llama(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  no_window(keys);
}

void mistral(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 4096 * 32);
  kv_heads(keys, config, 8);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  keys.window("sliding_window", config.window, 4096);
  keys.has("use_sliding_window");  // passed over by the family: the window is there or not
  keys.layer_types(config);
}

// The sliding window of Qwen 2 and 3: in the blocks from max_window_layers on.
void late_window(ConfigKeys& keys, ModelConfig& config) {
  bool windowed = config.window > 0;
  keys.flag("use_sliding_window", windowed, false);
  int64_t window = config.window;
  for (const char* key : {"sliding_window", "max_window_layers"}) keys.has(key);  // maybe no effect
  if (windowed) {
    keys.window("sliding_window", window, 4096);
    keys.integer("max_window_layers", config.first_window_layer, 0, 28);
  }
  if (!keys.reads()) return;
  if (!windowed) window = 0;
  if (keys.has("layer_types")) return keys.windows_by_layer(window, config);
  config.window = window;
  if (window == 0) config.first_window_layer = 0;
}

void qwen2(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 32768);
  kv_heads(keys, config, 32);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  config.qkv_bias = true;
  late_window(keys, config);
}

void qwen3(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 32768);
  kv_heads(keys, config, 32);
  keys.size("head_dim", "head_size", config.head_size, 128);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  config.qk_norm = true;
  late_window(keys, config);
}

void smollm3(ConfigKeys& keys, ModelConfig& config) {
  sizes(keys, config, "intermediate_size", 11008);
  kv_heads(keys, config, 4);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-6);
  keys.rope(config, {}, "rope_theta", "partial_rotary_factor", 2e6);
  common(keys, config, true);
  attention_bias(keys, config, false);
  keys.flag("mlp_bias", config.mlp_bias, false);
  keys.unrotated_layers(config);
  keys.fixed("use_sliding_window", false);
  for (const char* key : {"sliding_window", "max_window_layers"}) keys.has(key);  // no effect
  keys.layer_types(config);
}

void olmo(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer-plain";
  config.norm_eps = 1e-5;  // fixed in the family
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.optional_number("clip_qkv", config.clip_qkv);
  no_window(keys);
}

void olmo2(ConfigKeys& keys, ModelConfig& config) {
  config.norm_after = true;
  config.qk_norm = config.qk_norm_wide = true;
  sizes(keys, config, "intermediate_size", 2048);
  kv_heads(keys, config, config.heads);
  keys.size("head_dim", "head_size", config.head_size, 0);
  keys.number("rms_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config);
  common(keys, config);
  attention_bias(keys, config, false);
  keys.fixed("clip_qkv", nullptr);
  no_window(keys);
}

void gpt_neox(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer";
  config.gated = false;
  config.mlp_bias = true;
  sizes(keys, config, "intermediate_size", 2048);
  config.kv_heads = config.heads;
  keys.number("layer_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, 0.25, "rotary_emb_base", "rotary_pct");
  common(keys, config);
  attention_bias(keys, config, true);
  keys.flag("use_parallel_residual", config.parallel, true);
}

void stable_lm(ConfigKeys& keys, ModelConfig& config) {
  config.norm = "layer";
  sizes(keys, config, "intermediate_size", 4096);
  kv_heads(keys, config, 32);
  keys.number("layer_norm_eps", "norm_eps", config.norm_eps, 1e-5);
  keys.rope(config, 0.25);
  common(keys, config);
  keys.flag("use_qkv_bias", config.qkv_bias, false);
  keys.fixed("qk_layernorm", false);
  keys.flag("use_parallel_residual", config.parallel, false);
  config.shared_norm = config.parallel;
}

void opt(ConfigKeys& keys, ModelConfig& config) {
  config.norm_eps = 1e-5;  // fixed in the family
  config.gated = false;
  config.learned_positions = true;
  config.position_offset = 2;
  sizes(keys, config, "ffn_dim", 2048);
  config.kv_heads = config.heads;
  keys.flag("tie_word_embeddings", config.tied, true);
  keys.number("init_std", "init_std", config.init_std, 0.02);
  keys.activation("activation_function", config.activation, "relu");
  keys.fixed("quantization_config", nullptr);
  keys.fixed("do_layer_norm_before", true);
  keys.fixed("_remove_final_layer_norm", false);
  keys.fixed("word_embed_proj_dim", config.width);
  bool biased = config.qkv_bias && config.output_bias && config.mlp_bias;
  keys.flag("enable_bias", biased, true);
  config.qkv_bias = config.output_bias = config.mlp_bias = biased;
  bool affine = config.norm == "layer";
  keys.flag("layer_norm_elementwise_affine", affine, true);
  config.norm = affine ? "layer" : "layer-plain";
}

// Options that only our own format can say; keys of a Llama's values are not written.
void osp_option(ConfigKeys& keys, const char* key, bool& value, bool absent) {
  if (keys.reads() || value != absent) keys.flag(key, value, absent);
}
void osp_option(ConfigKeys& keys, const char* key, int64_t& value) {
  if (keys.reads() || value != 0) keys.integer(key, value, 0, 0);
}

void osp_own(ConfigKeys& keys, ModelConfig& config) {
  llama(keys, config);
  keys.text("osp_norm", config.norm,
            {"rms", "single-scale", "simple", "none", "layer", "layer-plain"}, "");
  keys.flag("osp_embedding_projection", config.embedding_projection, {});
  keys.flag("osp_qk_norm", config.qk_norm, {});
  osp_option(keys, "osp_embedding_norm", config.embedding_norm, false);
  osp_option(keys, "osp_branch_scale", config.branch_scale, false);
  if (config.branch_scale) {
    keys.number("osp_branch_scale_init", "branch_scale_init", config.branch_scale_init, 0.0);
  }
  osp_option(keys, "osp_norm_after", config.norm_after, false);
  osp_option(keys, "osp_parallel", config.parallel, false);
  osp_option(keys, "osp_shared_norm", config.shared_norm, false);
  osp_option(keys, "osp_qk_norm_wide", config.qk_norm_wide, false);
  osp_option(keys, "osp_gated", config.gated, true);
  const bool both = config.qkv_bias && config.output_bias;  // as attention_bias says
  osp_option(keys, "osp_qkv_bias", config.qkv_bias, both);
  osp_option(keys, "osp_output_bias", config.output_bias, both);
  if (keys.reads() || config.clip_qkv > 0) keys.optional_number("osp_clip_qkv", config.clip_qkv);
  int64_t rotary = config.rotary_size == config.head_size ? 0 : config.rotary_size;
  osp_option(keys, "osp_rotary_size", rotary);
  if (keys.reads()) config.rotary_size = rotary;
  osp_option(keys, "osp_learned_positions", config.learned_positions, false);
  osp_option(keys, "osp_position_offset", config.position_offset);
  osp_option(keys, "osp_window", config.window);
  osp_option(keys, "osp_first_window_layer", config.first_window_layer);
  keys.layers("osp_unrotated_layers", config, config.unrotated_layers);
}

const std::vector<Family>& families() {
  static const std::vector<std::string> rotary = {".rotary_emb.inv_freq", ".rotary_emb.cos_cached",
                                                  ".rotary_emb.sin_cached"};
  static const std::vector<Family> all = {
      {"LlamaForCausalLM", "llama", llama, {}, false, rotary},
      {"MistralForCausalLM", "mistral", mistral, {}, false, rotary},
      {"Qwen2ForCausalLM", "qwen2", qwen2, {}, false, rotary},
      {"Qwen3ForCausalLM", "qwen3", qwen3, {}, false, rotary},
      {"SmolLM3ForCausalLM", "smollm3", smollm3, {}, false, rotary},
      {"OlmoForCausalLM", "olmo", olmo, {}, false, rotary},
      {"Olmo2ForCausalLM", "olmo2", olmo2, {}, false, rotary},
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
       true,
       {".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"}},
      {"StableLmForCausalLM", "stablelm", stable_lm, {}, false, rotary},
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
       false,
       {}},
      {"OspForCausalLM", "osp", osp_own, {}, false, rotary},
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

std::vector<StoredTensor> stored_tensors(const ModelConfig& config,
                                         const std::vector<ParameterSpec>& specs) {
  const Family& family = family_of(config);
  std::vector<StoredTensor> stored;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::string name = renamed(family, specs[i].name);
    // Weights (and biases) of q, k and v follow each other and have one name in the file.
    if (family.joined_qkv && !stored.empty() && stored.back().name == name) {
      stored.back().shape[0] += specs[i].shape[0];
      stored.back().parameters.push_back(static_cast<int64_t>(i));
      continue;
    }
    // A head under a name of its own is also found under ours, as some converters write it.
    const std::string alias = name == "embed_out.weight" ? "lm_head.weight" : "";
    stored.push_back({name, alias, specs[i].shape, {static_cast<int64_t>(i)}});
  }
  return stored;
}

at::Tensor join_rows(const ModelConfig& config, const std::vector<at::Tensor>& parts) {
  if (parts.size() == 1) return parts[0];
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
  const int64_t count = static_cast<int64_t>(stored.parameters.size());
  if (count == 1) return {rows};
  std::vector<int64_t> shape = rows.sizes().vec();
  shape[0] /= count;
  const at::Tensor heads = rows.reshape({config.heads, count, config.head_size, -1});
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < count; ++i) {
    parts.push_back(heads.select(1, i).reshape(shape).contiguous());
  }
  return parts;
}

void scatter_stored(const StoredTensor& stored, const at::Tensor& tensor, ParameterStore& store) {
  const std::vector<at::Tensor> parts = split_rows(store.config, stored, tensor);
  for (size_t i = 0; i < parts.size(); ++i) store.master(stored.parameters[i]).copy_(parts[i]);
}

at::Tensor gather_stored(const StoredTensor& stored, const ParameterStore& store) {
  std::vector<at::Tensor> parts;
  for (const int64_t parameter : stored.parameters) parts.push_back(store.master(parameter));
  return join_rows(store.config, parts);
}

}  // namespace osp
