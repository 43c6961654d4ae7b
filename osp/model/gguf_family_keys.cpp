#include "osp/model/gguf_family_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/model/gguf_expert_keys.h"
#include "osp/model/gguf_keys.h"
#include "osp/ops/rope_scaling.h"

namespace osp {
namespace {

struct FamilyKeys {
  std::string_view architecture;
  std::array<std::string_view, 6> keys;  // "" where there are fewer
};
constexpr std::array<FamilyKeys, 6> kFamilyKeys = {{
    {"gemma2",
     {"attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
      "attention.sliding_window_pattern", "rope.freq_base_swa"}},
    {"gemma3",
     {"attention.sliding_window", "rope.freq_base_swa", "final_logit_softcapping",
      "attention.sliding_window_pattern", ""}},
    {"olmo2", {"attention.sliding_window", "attention.sliding_window_pattern", "", "", ""}},
    {"phi3", {"attention.sliding_window", "rope.scaling.attn_factor", "", "", ""}},
    {"granite", {"attention.scale", "embedding_scale", "residual_scale", "logit_scale", ""}},
    {"gpt-oss",
     {"attention.sliding_window", "attention.sliding_window_pattern", "rope.scaling.type",
      "rope.scaling.factor", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"}},
}};

// "layer_types" of windows that a file has in all but every n-th layer (the key is a number or
// absent), or in the layers that a list names.
Json layer_types(const GgufKeys& keys, int64_t layers, int64_t absent_interval) {
  constexpr std::string_view kPattern = "attention.sliding_window_pattern";
  Json types = Json::array();
  const auto found = keys.metadata().values().find(keys.full(kPattern));
  if (found != keys.metadata().values().end() && found->second.is_array) {
    const GgufValue& value = found->second;
    if (value.type != GgufType::boolean || static_cast<int64_t>(value.count) != layers) {
      fail(ErrorCode::damaged, "{}: {} has {} elements, expected a boolean for each of {} layers",
           keys.metadata().where(), found->first, value.count, layers);
    }
    for (const std::byte windowed : value.bytes) {
      types.push_back(windowed == std::byte{1} ? "sliding_attention" : "full_attention");
    }
    return types;
  }
  const int64_t interval = keys.integer(kPattern, absent_interval);
  if (interval < 0) {
    fail(ErrorCode::damaged, "{}: {} is {}, expected a number of layers", keys.metadata().where(),
         keys.full(kPattern), interval);
  }
  for (int64_t layer = 1; layer <= layers; ++layer) {
    const bool all = interval > 0 && layer % interval == 0;
    types.push_back(all ? "full_attention" : "sliding_attention");
  }
  return types;
}

void add_gemma(const GgufKeys& keys, std::string_view architecture, Json& json) {
  const bool second = architecture == "gemma2";
  const int64_t layers = json["num_hidden_layers"];
  const bool has_window = keys.has("attention.sliding_window") || !second;
  json["sliding_window"] =
      has_window ? keys.metadata().integer(keys.full("attention.sliding_window")) : 4096;
  json["layer_types"] = layer_types(keys, layers, gguf_window_interval(architecture));
  json["query_pre_attn_scalar"] = json["head_dim"];
  if (layers == gguf_wide_scale_layers(architecture)) {
    json["query_pre_attn_scalar"] =
        json["hidden_size"].get<int64_t>() / json["num_attention_heads"].get<int64_t>();
  }
  const auto cap = [&](const char* name, double absent) {
    const double value = keys.number(name, absent);
    return value == 0.0 ? Json(nullptr) : Json(value);
  };
  if (second) {
    const double base = json["rope_theta"], own = keys.number("rope.freq_base_swa", base);
    if (own != base) {
      fail(ErrorCode::unsupported, "{}: {} is {}, and osp computes a gemma2 with {} in all layers",
           keys.metadata().where(), keys.full("rope.freq_base_swa"), own, base);
    }
    json["attn_logit_softcapping"] = cap("attn_logit_softcapping", 50.0);
    json["final_logit_softcapping"] = cap("final_logit_softcapping", 30.0);
  } else {
    json["rope_local_base_freq"] = keys.number("rope.freq_base_swa", 10000.0);
    json["final_logit_softcapping"] = cap("final_logit_softcapping", 0.0);
  }
}

// The values of a tensor of factors, one for each pair of rotated channels.
std::vector<float> factors(const GgufFile& file, const char* name) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) {
    fail(ErrorCode::damaged, "{}: tensor {} is missing beside {}", file.path(), name,
         name == std::string_view(kGgufLongFactors) ? kGgufShortFactors : kGgufLongFactors);
  }
  const GgufTensor& tensor = found->second;
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  std::vector<float> values(tensor.data.size() / info.block_bytes * info.block_size);
  gguf_dequantize(tensor.type, tensor.data, values);
  return values;
}

void add_phi3(const GgufFile& file, const GgufKeys& keys, Json& json) {
  const int64_t window = keys.integer("attention.sliding_window", 0);
  json["sliding_window"] = window > 0 ? Json(window) : Json(nullptr);
  const int64_t context = json["max_position_embeddings"];
  const int64_t original = keys.integer("rope.scaling.original_context_length", context);
  json["original_max_position_embeddings"] = original;
  if (!file.tensors().contains(kGgufLongFactors) && !file.tensors().contains(kGgufShortFactors)) {
    const double magnitude = keys.number("rope.scaling.attn_factor", 1.0);
    if (magnitude != 1.0) {
      fail(ErrorCode::unsupported,
           "{}: {} is {} without factors of the rotary embedding, which osp does not compute",
           keys.metadata().where(), keys.full("rope.scaling.attn_factor"), magnitude);
    }
    return;
  }
  json["rope_scaling"] = {{"rope_type", "longrope"},
                          {"short_factor", factors(file, kGgufShortFactors)},
                          {"long_factor", factors(file, kGgufLongFactors)},
                          {"attention_factor", keys.number("rope.scaling.attn_factor", 1.0)}};
}

void add_granite(const GgufKeys& keys, Json& json) {
  const double size = json["head_dim"].get<double>(), scale = keys.number("attention.scale", 0.0);
  json["attention_multiplier"] = scale > 0 ? scale : 1.0 / std::sqrt(size);
  json["embedding_multiplier"] = keys.number("embedding_scale", 1.0);
  json["residual_multiplier"] = keys.number("residual_scale", 1.0);
  json["logits_scaling"] = keys.metadata().number(keys.full("logit_scale"));
}

// With a window, an OLMo 3.
void add_olmo(const GgufKeys& keys, Json& json) {
  const int64_t window = keys.integer("attention.sliding_window", 0);
  if (window == 0) return;
  json["architectures"] = {"Olmo3ForCausalLM"};
  json["sliding_window"] = window;
  json["layer_types"] = layer_types(keys, json["num_hidden_layers"], gguf_window_interval("olmo2"));
  json["rope_parameters"] = Json::object();
  for (const char* kind : {"full_attention", "sliding_attention"}) {
    json["rope_parameters"][kind] = {{"rope_type", "default"}, {"rope_theta", json["rope_theta"]}};
  }
  json.erase("rope_theta");
}

// YaRN as the family has it; without a type the rotary embedding is unscaled.
void add_gpt_oss(const GgufKeys& keys, Json& json) {
  json["sliding_window"] = keys.metadata().integer(keys.full("attention.sliding_window"));
  json["layer_types"] =
      layer_types(keys, json["num_hidden_layers"], gguf_window_interval("gpt-oss"));
  const std::string type = keys.full("rope.scaling.type");
  const std::string scaling =
      keys.metadata().has(type) ? std::string(keys.metadata().text(type)) : "none";
  if (scaling == "none") {
    json["rope_scaling"] = {{"rope_type", "default"}};
    return;
  }
  if (scaling != "yarn") {
    fail(ErrorCode::unsupported, "{}: {} is \"{}\", and osp computes a gpt-oss with yarn or none",
         keys.metadata().where(), type, printable(scaling));
  }
  const GgufMetadata& metadata = keys.metadata();
  json["rope_scaling"] = {
      {"rope_type", "yarn"},
      {"factor", metadata.number(keys.full("rope.scaling.factor"))},
      {"original_max_position_embeddings",
       metadata.integer(keys.full("rope.scaling.original_context_length"))},
      {"beta_fast", keys.number("rope.scaling.yarn_beta_fast", 32.0)},
      {"beta_slow", keys.number("rope.scaling.yarn_beta_slow", 1.0)},
      {"truncate", metadata.has(kGgufYarnTruncateKey) && metadata.flag(kGgufYarnTruncateKey)}};
}

}  // namespace

bool is_gguf_family_key(std::string_view architecture, std::string_view key) {
  if (is_gguf_expert_key(architecture, key)) return true;
  const auto* found = std::ranges::find(kFamilyKeys, architecture, &FamilyKeys::architecture);
  return found != kFamilyKeys.end() && !key.empty() &&
         std::ranges::find(found->keys, key) != found->keys.end();
}

bool rotates_a_part(std::string_view architecture) {
  return architecture == "phi3" || architecture == "glm4";
}

void add_gguf_family_keys(const GgufFile& file, std::string_view architecture, Json& json) {
  const GgufKeys keys(file, architecture);
  if (rotates_a_part(architecture) && keys.has("rope.dimension_count")) {
    json["partial_rotary_factor"] =
        rotary_fraction(keys.integer("rope.dimension_count", 0), json["head_dim"].get<int64_t>());
  }
  if (architecture.starts_with("gemma")) add_gemma(keys, architecture, json);
  if (architecture == "phi3") add_phi3(file, keys, json);
  if (architecture == "granite") add_granite(keys, json);
  if (architecture == "olmo2") add_olmo(keys, json);
  if (architecture == "gpt-oss") add_gpt_oss(keys, json);
  add_gguf_expert_keys(file, architecture, json);
  if (architecture == "arcee") json["hidden_act"] = "relu2";
  if (architecture == "glm4" && !keys.has("rope.dimension_count")) {
    json["partial_rotary_factor"] = 1.0;
  }
}

int64_t gguf_window_interval(std::string_view architecture) {
  if (architecture == "gemma2" || architecture == "gpt-oss") return 2;
  return architecture == "gemma3" ? 6 : 4;
}

int64_t gguf_wide_scale_layers(std::string_view architecture) {
  return architecture == "gemma2" ? 46 : 62;
}

}  // namespace osp
