#include "osp/model/hf_config.h"

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/model/config_keys.h"
#include "osp/model/hf_family.h"

namespace osp {
namespace {

constexpr const char* kLlama = "LlamaForCausalLM";
constexpr const char* kOsp = "OspForCausalLM";

bool has_value(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

// The one architecture of the folder; Error(unsupported) for one that osp does not read.
const Family& read_architecture(const Json& json, const std::string& where) {
  std::string name;
  if (has_value(json, "architectures")) {
    const Json& list = json.at("architectures");
    if (!list.is_array() || list.size() != 1 || !list[0].is_string()) {
      fail(ErrorCode::damaged, "{}: architectures is {}, expected a list with one name", where,
           shown_json(list));
    }
    name = list[0].get<std::string>();
  } else if (has_value(json, "model_type") && json.at("model_type") == "llama") {
    name = kLlama;
  } else {
    fail(ErrorCode::damaged, "{}: key architectures is missing", where);
  }
  const Family* family = name.empty() ? nullptr : find_family(name);
  if (family == nullptr) {
    fail(ErrorCode::unsupported, "{}: architecture {} is not supported; osp reads {}", where,
         shown_json(name), supported_architectures());
  }
  return *family;
}

std::vector<int64_t> read_end_tokens(const Json& json, const std::string& where) {
  std::vector<int64_t> ids;
  if (!has_value(json, "eos_token_id")) return ids;
  const Json& value = json.at("eos_token_id");
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    if (!is_int64(id)) {
      fail(ErrorCode::damaged, "{}: eos_token_id is {}, expected an integer or a list of them",
           where, shown_json(value));
    }
    ids.push_back(id.get<int64_t>());
  }
  return ids;
}

// Keys of our own format in another architecture: the folder contradicts itself.
void refuse_our_keys(const Json& json, const Family& family, const std::string& where) {
  if (family.architecture == kOsp) return;
  for (const auto& [key, value] : json.items()) {
    if (key.starts_with("osp_") && !value.is_null()) {
      fail(ErrorCode::damaged, "{}: key {}: a {} has no keys of osp", where, shown_json(Json(key)),
           family.architecture);
    }
  }
}

ModelConfig read_model(const Json& json, const Family& family, const std::string& where) {
  ModelConfig model;
  model.norm = "rms";
  model.embedding_projection = false;
  const bool ours = family.architecture == kLlama || family.architecture == kOsp;
  model.family = ours ? "" : family.architecture;
  ConfigKeys keys = ConfigKeys::reader(json, where);
  family.describe(keys, model);
  keys.refuse_unknown();
  try {
    return resolved_config(model);
  } catch (const Error& error) {
    fail(ErrorCode::damaged, "{}: {}", where, error.what());
  }
}

Json written_keys(const Family& family, ModelConfig config) {
  Json json = Json::object();
  ConfigKeys keys = ConfigKeys::writer(json);
  family.describe(keys, config);
  return json;
}

// True if the family's config.json says everything about the model: written and read again it is
// the same.
bool can_say(const Family& family, const ModelConfig& config) {
  try {
    return read_model(written_keys(family, config), family, "") == config;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

bool is_plain_llama(const ModelConfig& config) {
  return config.family.empty() && can_say(*find_family(kLlama), config);
}

std::string architecture_name(const ModelConfig& config) {
  const Family* family = find_family(config.family);
  return family != nullptr && can_say(*family, config) ? family->architecture : kOsp;
}

HfConfig parse_hf_config(const Json& json, const std::string& where) {
  if (!json.is_object()) fail(ErrorCode::damaged, "{}: expected a JSON object", where);
  if (json.contains("osp_quantization")) {
    fail(ErrorCode::unsupported,
         "{}: the model is quantized, and this needs one that is not; give the model that it was "
         "made from",
         where);
  }
  const Family& family = read_architecture(json, where);
  refuse_our_keys(json, family, where);
  return {read_model(json, family, where), read_end_tokens(json, where)};
}

Json end_tokens_json(const std::vector<int64_t>& end_tokens) {
  if (end_tokens.empty()) return nullptr;
  return end_tokens.size() == 1 ? Json(end_tokens.front()) : Json(end_tokens);
}

std::string model_config_json(const ModelConfig& config, const std::string& dtype,
                              const std::vector<int64_t>& end_tokens,
                              const OuterTokens& outer_tokens) {
  const std::string architecture = architecture_name(config);
  const Family& family = *find_family(architecture);
  Json json;
  json["architectures"] = Json::array({architecture});
  json["model_type"] = family.model_type;
  json.update(written_keys(family, config));
  json["bos_token_id"] = outer_tokens.begin < 0 ? Json(nullptr) : Json(outer_tokens.begin);
  // Said even where there is none: some families in transformers have one by default.
  json["pad_token_id"] = outer_tokens.padding < 0 ? Json(nullptr) : Json(outer_tokens.padding);
  json["eos_token_id"] = end_tokens_json(end_tokens);
  json["dtype"] = dtype;
  json["torch_dtype"] = dtype;
  return json_text(json, 2) + "\n";
}

}  // namespace osp
