#include "osp/export/gguf_model_keys.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "osp/formats/gguf_quantize.h"
#include "osp/model/gguf_expert_keys.h"
#include "osp/model/gguf_family_keys.h"
#include "osp/model/gguf_names.h"
#include "osp/model/gguf_rope.h"
#include "osp/model/hf_config.h"

namespace osp {
namespace {

// The first thing in which a model is no Llama.
std::string difference_from_llama(const ModelConfig& config) {
  if (config.norm != "rms") return fmt::format("has norms of the kind {}", config.norm);
  if (config.embedding_projection) return "has projections around the embedding";
  if (config.has_experts()) return "has experts";
  if (config.embedding_norm) return "has a norm of the embedding";
  if (config.branch_scale) return "has scales of its branches";
  if (config.qk_norm) return "has norms of queries and keys";
  if (config.norm_after || config.norm_around) return "has norms behind its branches";
  if (config.parallel) return "has parallel branches";
  if (config.qkv_bias != config.output_bias) return "has biases on a part of its projections";
  if (!config.gated || config.activation != "silu") return "has no gated SiLU";
  if (config.clip_qkv > 0) return "clamps queries, keys and values";
  if (config.learned_positions) return "has learned positions";
  const bool whole = config.rotary_size == 0 || config.rotary_size == config.head_size;
  if (!whole) return "rotates a part of each head";
  if (!config.unrotated_layers.empty()) return "has layers without the rotary embedding";
  if (config.window > 0) return fmt::format("has a sliding window of {}", config.window);
  if (config.embedding_multiplier != 1 || config.residual_multiplier != 1 ||
      config.attention_multiplier != 0 || config.logit_divisor != 1) {
    return "has constant factors of its embedding, branches or logits";
  }
  if (config.attention_softcap > 0 || config.logit_softcap > 0) return "caps its logits";
  if (config.rope_scaling.query_growth > 0) return "has queries that grow with the position";
  return fmt::format("is a {}", config.family);
}

bool near(double a, double b) { return std::fabs(a - b) <= 1e-6 * std::fabs(b); }

// Windows that stand in other layers than llama.cpp knows, or that it passes over.
std::string wrong_window(const ModelConfig& config, std::string_view architecture) {
  if (config.window == 0) return "";
  std::string window = fmt::format("has a sliding window of {}", config.window);
  if (architecture == "phi3") return config.window < config.context ? window : "";
  const bool every = config.family == "Olmo3ForCausalLM" || architecture == "gpt-oss";
  if (!every && !architecture.starts_with("gemma")) return window;
  const int64_t interval = gguf_window_interval(architecture);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if ((config.window_of(layer) == 0) != ((layer + 1) % interval == 0)) {
      return fmt::format("has windows in other layers than all but every {}th", interval);
    }
  }
  return "";
}

std::string wrong_bias(const ModelConfig& config, std::string_view architecture) {
  const bool all = architecture == "llama" || architecture == "gpt-oss";
  const bool first_three =
      all || architecture == "qwen2" || architecture == "glm4" || architecture == "seed_oss";
  const bool lost =
      (config.qkv_bias && !first_three) || ((config.output_bias || config.mlp_bias) && !all);
  return lost ? "has biases that its files cannot hold" : "";
}

std::string wrong_rope(const ModelConfig& config, std::string_view architecture) {
  const std::string& type = config.rope_scaling.type;
  if (config.rotary_size != config.head_size && !rotates_a_part(architecture)) {
    return "rotates a part of each head";
  }
  if (type == "default") return "";
  if (architecture == "phi3" && type == "longrope") return "";
  if (architecture == "gpt-oss" && type == "yarn") {
    const RopeScaling& yarn = config.rope_scaling;
    const bool own = yarn.attention_factor != 0 || yarn.mscale != 0 || yarn.mscale_all_dim != 0;
    return own ? "has a YaRN whose queries and keys have a factor of their own" : "";
  }
  if (!has_llama3_divisors(config.rope_scaling)) {
    return fmt::format(
        "has a rotary embedding that is scaled ({}) in a way that its files cannot say", type);
  }
  // Those whose computation in llama.cpp asks for divisors.
  for (const char* name : {"llama", "qwen2", "qwen3", "smollm3", "arcee", "granite"}) {
    if (architecture == name) return "";
  }
  return "has a scaled rotary embedding";
}

std::string wrong_gemma(const ModelConfig& config, std::string_view architecture) {
  if (!config.tied) return "has a head of its own, and llama.cpp's Gemmas have not";
  if (config.window == 0) return "has no sliding window";
  if (!near(config.embedding_multiplier, std::sqrt(static_cast<double>(config.width)))) {
    return "multiplies its embedding by another number than the root of the width";
  }
  const bool wide = config.layers == gguf_wide_scale_layers(architecture);
  const int64_t size = wide ? config.width / config.heads : config.head_size;
  const double scale = 1.0 / std::sqrt(static_cast<double>(size));
  if (!near(config.attention_multiplier, scale)) {
    return fmt::format("scales its queries by {}, and llama.cpp by {}", config.attention_multiplier,
                       scale);
  }
  if (architecture == "gemma2") {
    const bool capped = config.attention_softcap > 0 && config.logit_softcap > 0;
    return capped ? "" : "has no caps of its logits";
  }
  if (config.logit_softcap > 0) return "caps its logits";
  return config.local_rope_theta == 10000.0 ? "" : "has windows with a rotary base of their own";
}

// Mixtures of experts that llama.cpp routes or computes otherwise.
std::string wrong_experts(const ModelConfig& config, std::string_view architecture) {
  const GgufRouting* const routing = find_gguf_routing(architecture);
  if (routing == nullptr) return "";
  if (!config.dense_layers.empty()) return "has blocks without experts";
  if (config.normalized_routing != routing->normalized) {
    return routing->normalized ? "does not divide the chosen probabilities by their sum"
                               : "divides the chosen probabilities by their sum";
  }
  if (architecture != "qwen3moe" && config.tied) return "shares its head with the embedding";
  if (architecture == "olmoe") {
    if (config.clip_qkv > 0) return "clamps queries, keys and values";
    return config.kv_heads != config.heads ? "has fewer heads of keys than of queries" : "";
  }
  if (architecture != "gpt-oss") return "";
  if (config.window == 0) return "has no sliding window";
  if (!config.qkv_bias || !config.output_bias) return "has no biases of its attention";
  if (config.swiglu_limit != kGgufSwigluLimit || config.swiglu_alpha != kGgufSwigluAlpha) {
    return fmt::format("clamps its experts with other numbers than {} and {}", kGgufSwigluLimit,
                       kGgufSwigluAlpha);
  }
  return "";
}

// The divisors of the rotary embedding's frequencies, for llama.cpp.
GgufTensorEntry factors_entry(const std::string& name, const std::vector<double>& exact) {
  return {name,
          GgufTensorType::f32,
          {static_cast<int64_t>(exact.size())},
          [factors = std::vector<float>(exact.begin(), exact.end())](std::span<std::byte> out) {
            gguf_quantize(GgufTensorType::f32, factors, out);
          }};
}

std::string expected_activation(std::string_view architecture) {
  if (architecture.starts_with("gemma")) return "gelu_tanh";
  return architecture == "arcee" ? "relu2" : "silu";
}

}  // namespace

std::string why_no_gguf(const ModelConfig& config) {
  const GgufArchitecture* architecture = gguf_architecture_of(config);
  if (architecture == nullptr) return difference_from_llama(config);
  const std::string_view name = architecture->name;
  if (std::string window = wrong_window(config, name); !window.empty()) return window;
  if (config.family.empty() && !is_plain_llama(config)) return difference_from_llama(config);
  if (!config.family.empty() && architecture_name(config) != config.family) {
    return fmt::format("is not all that a {} is", config.family);
  }
  if (config.activation != expected_activation(name)) {
    return fmt::format("has {} for {}", config.activation,
                       expected_activation(name) == "silu" ? "SiLU" : expected_activation(name));
  }
  if (std::string bias = wrong_bias(config, name); !bias.empty()) return bias;
  if (std::string rope = wrong_rope(config, name); !rope.empty()) return rope;
  if (name.starts_with("gemma")) return wrong_gemma(config, name);
  if (std::string experts = wrong_experts(config, name); !experts.empty()) return experts;
  const bool whole_width = name == "olmo2" || name == "phi3" || name == "olmoe";
  if (whole_width && config.heads * config.head_size != config.width) {
    return "has heads that are not the width together";
  }
  if (name == "olmo2" && config.tied) return "shares its head with the embedding";
  if (config.local_rope_theta > 0 && config.local_rope_theta != config.rope_theta) {
    return "has windows with a rotary base of their own";
  }
  if (name != "smollm3") return "";
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.rotates(layer) == ((layer + 1) % kGgufUnrotatedInterval == 0)) {
      return fmt::format("does not leave out the rotary embedding in every {}th layer",
                         kGgufUnrotatedInterval);
    }
  }
  return "";
}

void add_model_metadata(const ModelConfig& config, uint32_t file_type, const std::string& name,
                        GgufMetadataWriter& metadata) {
  const GgufArchitecture& architecture = *gguf_architecture_of(config);
  const auto full = [&](const char* key) { return fmt::format("{}.{}", architecture.name, key); };
  const auto u32 = [&](const char* key, int64_t value) {
    metadata.u32(full(key), static_cast<uint32_t>(value));
  };
  const auto f32 = [&](const char* key, double value) {
    metadata.f32(full(key), static_cast<float>(value));
  };
  metadata.text("general.architecture", std::string(architecture.name));
  metadata.text("general.type", "model");
  if (!name.empty()) metadata.text("general.name", name);
  metadata.u32("general.file_type", file_type);
  metadata.u32("general.quantization_version", 2);
  u32("block_count", config.layers);
  u32("context_length", config.context);
  u32("embedding_length", config.width);
  u32("feed_forward_length", config.inner);
  u32("attention.head_count", config.heads);
  u32("attention.head_count_kv", config.kv_heads);
  u32("attention.key_length", config.head_size);
  u32("attention.value_length", config.head_size);
  u32("rope.dimension_count", config.rotary_size > 0 ? config.rotary_size : config.head_size);
  u32("vocab_size", config.vocabulary);
  f32("rope.freq_base", config.rope_theta);
  f32("attention.layer_norm_rms_epsilon", config.norm_eps);
  // Keys that single families have beside these.
  if (architecture.name == "granite") {
    f32("embedding_scale", config.embedding_multiplier);
    f32("residual_scale", config.residual_multiplier);
    f32("logit_scale", config.logit_divisor);
    if (config.attention_multiplier > 0) f32("attention.scale", config.attention_multiplier);
  }
  if (architecture.name.starts_with("gemma")) u32("attention.sliding_window", config.window);
  if (architecture.name == "gemma2") {
    f32("attn_logit_softcapping", config.attention_softcap);
    f32("final_logit_softcapping", config.logit_softcap);
  }
  if (find_gguf_routing(architecture.name) != nullptr) {
    u32("expert_count", config.experts);
    u32("expert_used_count", config.experts_per_token);
    u32("expert_feed_forward_length", config.expert_inner);
  }
  if (architecture.name == "gpt-oss") {
    u32("attention.sliding_window", config.window);
    const RopeScaling& yarn = config.rope_scaling;
    if (yarn.type == "yarn") {
      metadata.text(full("rope.scaling.type"), "yarn");
      f32("rope.scaling.factor", yarn.factor);
      u32("rope.scaling.original_context_length", yarn.original_context);
      f32("rope.scaling.yarn_beta_fast", yarn.beta_fast);
      f32("rope.scaling.yarn_beta_slow", yarn.beta_slow);
      if (yarn.truncate) metadata.flag(kGgufYarnTruncateKey, true);
    }
  }
  if (architecture.name == "gemma3") f32("rope.freq_base_swa", config.local_rope_theta);
  if (config.family == "Olmo3ForCausalLM" && config.window > 0) {
    u32("attention.sliding_window", config.window);
    std::vector<bool> windowed;
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      windowed.push_back(config.window_of(layer) > 0);
    }
    metadata.flags(full("attention.sliding_window_pattern"), windowed);
  }
  if (architecture.name == "phi3") {
    const bool longrope = config.rope_scaling.type == "longrope";
    u32("rope.scaling.original_context_length",
        longrope ? config.rope_scaling.original_context : config.context);
    u32("attention.sliding_window", 0);
    if (longrope) f32("rope.scaling.attn_factor", rotary_magnitude(config.rope_scaling));
  }
}

std::vector<std::string> gguf_model_differences(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type != "yarn" || scaling.truncate) return {};
  return {
      "llama.cpp takes whole channel pairs as the ends of YaRN's ramp, and this model does not "
      "(truncate = false): logits differ a little there"};
}

std::vector<GgufTensorEntry> gguf_rope_tensors(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.type == "default" || scaling.type == "yarn") return {};
  if (scaling.type == "longrope") {
    return {factors_entry(kGgufLongFactors, scaling.long_factor),
            factors_entry(kGgufShortFactors, scaling.short_factor)};
  }
  return {factors_entry("rope_freqs.weight",
                        llama3_divisors(config.rope_theta, config.head_size, scaling.factor))};
}

}  // namespace osp
