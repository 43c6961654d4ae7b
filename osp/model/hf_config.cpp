#include "osp/model/hf_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "osp/base/error.h"

namespace osp {
namespace {

// Our field, the key of config.json, and whether a LlamaForCausalLM must have it. The range of a
// value is that of the field.
struct KeyOfField {
  const char* field;
  const char* key;
  bool required;
};

constexpr std::array<KeyOfField, 15> kKeys = {{
    {"layers", "num_hidden_layers", true},
    {"width", "hidden_size", true},
    {"heads", "num_attention_heads", true},
    {"kv_heads", "num_key_value_heads", false},
    {"head_size", "head_dim", false},
    {"inner", "intermediate_size", true},
    {"vocabulary", "vocab_size", true},
    {"context", "max_position_embeddings", false},
    {"norm", "osp_norm", false},
    {"norm_eps", "rms_norm_eps", false},
    {"rope_theta", "rope_theta", false},
    {"tied", "tie_word_embeddings", false},
    {"qk_norm", "osp_qk_norm", false},
    {"embedding_projection", "osp_embedding_projection", false},
    {"init_std", "initializer_range", false},
}};

const KeyOfField& key_of(const std::string& field) {
  for (const KeyOfField& entry : kKeys) {
    if (field == entry.field) return entry;
  }
  OSP_CHECK(false, "field {} of ModelConfig has no key in config.json", field);
}

bool has_value(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

// Visits every field of ModelConfig and assigns the value in config.json, if there is one.
struct ConfigReader {
  const Json& json;
  const std::string& where;
  bool ours;  // OspForCausalLM: our own keys are required

  bool present(const char* field) const {
    const KeyOfField& entry = key_of(field);
    if (has_value(json, entry.key)) return true;
    const bool own_key = std::string(entry.key).rfind("osp_", 0) == 0;
    if (entry.required || (ours && own_key)) {
      fail(ErrorCode::damaged, "{}: key {} is missing", where, entry.key);
    }
    return false;
  }
  void check_range(const char* field, double value, double low, double high) const {
    if (value >= low && value <= high) return;
    fail(ErrorCode::damaged, "{}: {} is {}, expected a number from {} to {}", where,
         key_of(field).key, value, low, high);
  }
  void operator()(const char* field, int64_t& value, const Range& range, const char*) const {
    if (!present(field)) return;
    value = json_int(json, key_of(field).key, where);
    // 0 means "derive" in a recipe; in a model dir it would be a size of nothing.
    check_range(field, static_cast<double>(value), std::max(range.low, 1.0), range.high);
  }
  void operator()(const char* field, double& value, const Range& range, const char*) const {
    if (!present(field)) return;
    value = json_number(json, key_of(field).key, where);
    check_range(field, value, range.low, range.high);
  }
  void operator()(const char* field, bool& value, const char*) const {
    if (present(field)) value = json_bool(json, key_of(field).key, where);
  }
  void operator()(const char* field, std::string& value, const Choices& choices,
                  const char*) const {
    if (!present(field)) return;
    value = json_string(json, key_of(field).key, where);
    const auto& known = choices.values;
    if (std::find(known.begin(), known.end(), value) == known.end()) {
      fail(ErrorCode::unsupported, "{}: {} is {}, expected one of {}", where, key_of(field).key,
           Json(value).dump(), fmt::join(known, ", "));
    }
  }
};

// Visits every field and writes its key.
struct ConfigWriter {
  Json& json;
  bool ours;

  template <class T, class... Rest>
  void operator()(const char* field, const T& value, const Rest&...) const {
    const std::string key = key_of(field).key;
    if (key == "rope_theta") {
      json["rope_parameters"] = {{"rope_theta", value}, {"rope_type", "default"}};
    }
    if (ours || key.rfind("osp_", 0) != 0) json[key] = value;
  }
};

// One line of a value for a message, cut where a hostile file would fill the screen.
std::string shown(const Json& value) {
  constexpr size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

// Keys that change what the model computes in a way that osp does not; `same` are the values with
// which the key changes nothing (null always is one).
void refuse_features(const Json& json, const std::string& where) {
  const std::array<std::pair<const char*, Json>, 9> same = {{
      {"attention_bias", false},
      {"mlp_bias", false},
      {"rope_scaling", nullptr},
      {"sliding_window", nullptr},
      {"use_sliding_window", false},
      {"quantization_config", nullptr},
      {"partial_rotary_factor", 1.0},
      {"hidden_act", "silu"},
      {"layer_types", nullptr},
  }};
  for (const auto& [key, harmless] : same) {
    if (!has_value(json, key)) continue;
    const Json& value = json.at(key);
    if (value == harmless) continue;
    if (std::string(key) == "rope_scaling" && value.is_object() && value.size() == 1 &&
        value.contains("rope_type") && value.at("rope_type") == "default") {
      continue;
    }
    fail(ErrorCode::unsupported, "{}: {} = {} is not supported: osp computes a Llama with {}",
         where, key, shown(value),
         harmless.is_null() ? fmt::format("no {}", key)
                            : fmt::format("{} = {}", key, harmless.dump()));
  }
}

// rope_parameters (transformers 5) or rope_theta beside the other keys (before it).
Json with_rope_theta(const Json& json, const std::string& where) {
  Json flat = json;
  if (!has_value(json, "rope_parameters")) return flat;
  const Json& rope = json.at("rope_parameters");
  if (!rope.is_object()) {
    fail(ErrorCode::damaged, "{}: rope_parameters is {}, expected an object", where, shown(rope));
  }
  for (const auto& [key, value] : rope.items()) {
    if (key == "rope_theta") {
      flat["rope_theta"] = value;
    } else if (!value.is_null() && !(key == "rope_type" && value == "default") &&
               !(key == "partial_rotary_factor" && value == 1.0)) {
      fail(
          ErrorCode::unsupported,
          "{}: rope_parameters.{} = {} is not supported: osp computes the default rotary embedding",
          where, shown(Json(key)), shown(value));
    }
  }
  return flat;
}

// Whether the folder holds an OspForCausalLM; Error(unsupported) for anything but the two.
bool read_architecture(const Json& json, const std::string& where) {
  std::string name;
  if (has_value(json, "architectures")) {
    const Json& list = json.at("architectures");
    if (!list.is_array() || list.size() != 1 || !list[0].is_string()) {
      fail(ErrorCode::damaged, "{}: architectures is {}, expected a list with one name", where,
           shown(list));
    }
    name = list[0].get<std::string>();
  } else if (has_value(json, "model_type") && json.at("model_type") == "llama") {
    name = "LlamaForCausalLM";
  } else {
    fail(ErrorCode::damaged, "{}: key architectures is missing", where);
  }
  if (name != "LlamaForCausalLM" && name != "OspForCausalLM") {
    fail(ErrorCode::unsupported,
         "{}: architecture {} is not supported; osp reads LlamaForCausalLM and OspForCausalLM",
         where, shown(Json(name)));
  }
  return name == "OspForCausalLM";
}

std::vector<int64_t> read_end_tokens(const Json& json, const std::string& where) {
  std::vector<int64_t> ids;
  if (!has_value(json, "eos_token_id")) return ids;
  const Json& value = json.at("eos_token_id");
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    if (!id.is_number_integer()) {
      fail(ErrorCode::damaged, "{}: eos_token_id is {}, expected an integer or a list of them",
           where, shown(value));
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

}  // namespace

bool is_plain_llama(const ModelConfig& config) {
  return config.norm == "rms" && !config.qk_norm && !config.embedding_projection;
}

std::string architecture_name(const ModelConfig& config) {
  return is_plain_llama(config) ? "LlamaForCausalLM" : "OspForCausalLM";
}

HfConfig parse_hf_config(const Json& json, const std::string& where) {
  if (!json.is_object()) fail(ErrorCode::damaged, "{}: expected a JSON object", where);
  const bool ours = read_architecture(json, where);
  refuse_features(json, where);
  HfConfig result;
  ModelConfig& model = result.model;
  // What transformers takes for a LlamaForCausalLM where a key is absent.
  model.norm = "rms";
  model.norm_eps = 1e-6;
  model.context = 2048;
  model.embedding_projection = false;
  const Json flat = with_rope_theta(json, where);
  const ConfigReader reader{flat, where, ours};
  ModelConfig::fields(reader, model);
  if (!ours && !is_plain_llama(model)) {
    fail(ErrorCode::damaged,
         "{}: a LlamaForCausalLM has no osp_norm, osp_qk_norm or "
         "osp_embedding_projection",
         where);
  }
  try {
    model = resolved(model);
  } catch (const Error& error) {
    fail(ErrorCode::damaged, "{}: {}", where, error.what());
  }
  result.end_tokens = read_end_tokens(json, where);
  return result;
}

std::string model_config_json(const ModelConfig& config, const std::string& dtype,
                              int64_t end_token) {
  const bool ours = !is_plain_llama(config);
  Json json;
  json["architectures"] = Json::array({architecture_name(config)});
  json["model_type"] = ours ? "osp" : "llama";
  const ConfigWriter writer{json, ours};
  ModelConfig::fields(writer, config);
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["bos_token_id"] = nullptr;
  json["eos_token_id"] = end_token < 0 ? Json(nullptr) : Json(end_token);
  json["dtype"] = dtype;
  json["torch_dtype"] = dtype;
  return json.dump(2) + "\n";
}

}  // namespace osp
