#include "osp/model/wrapped_model.h"

#include <array>
#include <map>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/model/config_keys.h"

namespace osp {
namespace {

// A kind of text model inside a kind of checkpoint.
struct Wrapped {
  std::string_view outside;     // architecture of config.json
  std::string_view model_type;  // of text_config
  std::string_view inside;      // architecture of the text model alone
  // What transformers takes where text_config says nothing, as JSON.
  std::string_view defaults;
};

constexpr std::array<Wrapped, 4> kWrapped = {{
    {"Gemma3ForConditionalGeneration", "gemma3_text", "Gemma3ForCausalLM",
     R"({"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216,
         "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
         "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
         "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
         "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 256, "sliding_window": 4096,
         "attention_bias": false, "tie_word_embeddings": true})"},
    {"Mistral3ForConditionalGeneration", "mistral", "MistralForCausalLM", "{}"},
    {"Mistral3ForConditionalGeneration", "ministral", "MinistralForCausalLM", "{}"},
    {"Mistral3ForConditionalGeneration", "ministral3", "Ministral3ForCausalLM", "{}"},
}};

// Where files hold the text model: as transformers 4 wrote it, and as later versions do.
constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kPrefixes = {
    {{"language_model.", ""}, {"model.language_model.", "model."}}};

// The name of the architecture, "" if there is not one.
std::string architecture_of(const Json& json) {
  const auto list = json.is_object() ? json.find("architectures") : json.end();
  if (list == json.end() || !list->is_array() || list->size() != 1) return "";
  return (*list)[0].is_string() ? (*list)[0].get<std::string>() : "";
}

constexpr const char* kTied = "tie_word_embeddings";

// The name that a tensor of the text model would have alone, "" for other tensors.
std::string text_name(const std::string& name) {
  for (const auto& [prefix, alone] : kPrefixes) {
    if (name.starts_with(prefix)) return std::string(alone) + name.substr(prefix.size());
  }
  return name == "lm_head.weight" ? name : "";
}

}  // namespace

bool wraps_text_model(const Json& config_json) {
  const std::string name = architecture_of(config_json);
  for (const Wrapped& wrapped : kWrapped) {
    if (wrapped.outside == name) return true;
  }
  return false;
}

Json text_model_config(const Json& config_json, const std::string& where) {
  const std::string name = architecture_of(config_json);
  const Json text = config_json.value("text_config", Json());
  if (!text.is_object()) {
    fail(ErrorCode::damaged, "{}: text_config is {}, expected the object of a {}", where,
         text.is_null() ? "missing" : shown_json(text), name);
  }
  const Json type = text.value("model_type", Json());
  for (const Wrapped& wrapped : kWrapped) {
    if (wrapped.outside != name || type != wrapped.model_type) continue;
    Json alone = parse_json(wrapped.defaults, "defaults");
    // rope_parameters stands for the older keys.
    if (text.contains("rope_parameters")) {
      alone.erase("rope_theta");
      alone.erase("rope_local_base_freq");
    }
    alone.update(text);
    alone["architectures"] = Json::array({wrapped.inside});
    const auto outside = [&](const char* key) { return config_json.value(key, Json()); };
    for (const char* key : {"eos_token_id", "bos_token_id", "pad_token_id"}) {
      if (!outside(key).is_null()) alone[key] = outside(key);
    }
    const Json inside = text.value(kTied, Json());
    alone[kTied] = !inside.is_null()           ? inside
                   : !outside(kTied).is_null() ? outside(kTied)
                                               : alone.value(kTied, Json(false));
    return alone;
  }
  fail(ErrorCode::unsupported, "{}: text_config.model_type is {}, which osp does not read in a {}",
       where, shown_json(type), name);
}

bool contradicts_itself_on_tying(const Json& config_json) {
  const Json text = config_json.value("text_config", Json());
  const Json inside = text.is_object() ? text.value(kTied, Json()) : Json();
  const Json outside = config_json.value(kTied, Json());
  return inside.is_boolean() && outside.is_boolean() && inside != outside;
}

void keep_text_tensors(WeightFiles& weights) {
  std::map<std::string, TensorSource> kept;
  for (const auto& [name, source] : weights.tensors) {
    const std::string alone = text_name(name);
    if (alone.empty()) continue;
    if (!kept.emplace(alone, source).second) {
      fail(ErrorCode::damaged, "{}: tensor {} stands under two names", source.file, shown(alone));
    }
  }
  weights.tensors = std::move(kept);
  std::map<std::string, std::string> metadata;
  for (const auto& [name, value] : weights.metadata) {
    const std::string alone = text_name(name);
    metadata.emplace(alone.empty() ? name : alone, value);
  }
  weights.metadata = std::move(metadata);
}

}  // namespace osp
