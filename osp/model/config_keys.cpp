#include "osp/model/config_keys.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <utility>

#include "osp/base/error.h"

namespace osp {
namespace {

// Our name of an activation and those of config.json, the one that is written first.
struct ActivationNames {
  const char* ours;
  std::vector<std::string> theirs;
};

const std::array<ActivationNames, 5>& activations() {
  static const std::array<ActivationNames, 5> names = {{
      {"silu", {"silu", "swish"}},
      {"relu", {"relu"}},
      {"relu2", {"relu2"}},
      {"gelu", {"gelu", "gelu_python"}},
      {"gelu_tanh", {"gelu_pytorch_tanh", "gelu_new", "gelu_python_tanh"}},
  }};
  return names;
}

// Finds the range of a field of ModelConfig.
struct RangeFinder {
  std::string wanted;
  std::optional<Range> found;

  template <class T>
  void operator()(const char* name, const T&, const Range& range, const char*) {
    if (wanted == name) found = range;
  }
  template <class T, class... Rest>
  void operator()(const char*, const T&, const Rest&...) {}
};

// Parts of the names of keys that bear on rotation, on scales or on windows of attention. Keys of
// other families stand in many configurations with a value that changes nothing there.
constexpr std::array<std::string_view, 12> kBearing = {
    "rope",       "rotary",         "window",     "multiplier",  "softcap",
    "logit_scal", "alibi",          "chunk_size", "scale_embed", "query_pre_attn_scalar",
    "attn_scale", "attention_scale"};

// Parts of the names of keys about mixtures of experts; there 0 changes nothing either.
constexpr std::array<std::string_view, 8> kAboutExperts = {
    "expert", "moe_",   "scoring_func",   "n_group",
    "topk_",  "top_k_", "routed_scaling", "first_k_dense"};

// A factor of 1, one group or an expert a token changes nothing; one shared expert is one, and so
// is one block without experts. A feed-forward network in pieces is the same network.
bool changes_nothing(const std::string& key, const Json& value) {
  if (key == "chunk_size_feed_forward") return true;
  const bool counts = key.find("shared_expert") != std::string::npos ||
                      key.find("first_k_dense") != std::string::npos;
  return value.is_null() || value == false || (value.is_structured() && value.empty()) ||
         (value.is_number() && value == 1 && !counts);
}

bool present(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

}  // namespace

Range model_field_range(const char* field) {
  RangeFinder finder{field, {}};
  const ModelConfig config;
  ModelConfig::fields(finder, config);
  OSP_CHECK(finder.found, "ModelConfig has no range for {}", field);
  return *finder.found;
}

std::string shown_json(const Json& value) {
  constexpr size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', true);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

ConfigKeys ConfigKeys::reader(const Json& json, const std::string& where) {
  ConfigKeys keys;
  keys.in_ = &json;
  keys.where_ = where;
  return keys;
}

ConfigKeys ConfigKeys::writer(Json& out) {
  ConfigKeys keys;
  keys.out_ = &out;
  return keys;
}

bool ConfigKeys::has(const char* key) const {
  known_.insert(key);
  return in_ != nullptr && present(*in_, key);
}

void ConfigKeys::refuse_unknown() const {
  if (!reads()) return;
  for (const auto& [key, value] : in_->items()) {
    if (known_.contains(key) || changes_nothing(key, value)) continue;
    const auto has_part = [&key = key](std::string_view part) {
      return key.find(part) != std::string::npos;
    };
    const bool about_experts =
        value != 0 && std::any_of(kAboutExperts.begin(), kAboutExperts.end(), has_part);
    if (about_experts || std::any_of(kBearing.begin(), kBearing.end(), has_part))
      unsupported(shown_json(key), shown_json(value), fmt::format("no {}", key));
  }
}

double ConfigKeys::checked(const std::string& key, double value, double low, double high) const {
  if (!(value >= low && value <= high)) {
    fail(ErrorCode::damaged, "{}: {} is {}, expected a number from {} to {}", where_, key, value,
         low, high);
  }
  return value;
}

void ConfigKeys::unsupported(const std::string& key, const std::string& value,
                             const std::string& osp_has) const {
  fail(ErrorCode::unsupported, "{}: {} = {} is not supported; osp computes {}", where_, key, value,
       osp_has);
}

void ConfigKeys::size(const char* key, const char* field, int64_t& value,
                      std::optional<int64_t> absent) {
  if (!reads()) {
    (*out_)[key] = value;
    return;
  }
  if (!has(key)) {
    if (!absent) {
      fail(ErrorCode::damaged, "{}: key {} is {}", where_, key,
           in_->contains(key) ? "null, expected a number" : "missing");
    }
    value = *absent;
    return;
  }
  value = json_int(*in_, key, where_);
  const Range range = model_field_range(field);
  // 0 means "derive" in a recipe; in a model dir it would be a size of nothing.
  checked(key, static_cast<double>(value), std::max(range.low, 1.0), range.high);
}

void ConfigKeys::integer(const char* key, int64_t& value, int64_t low, int64_t absent) {
  if (!reads()) {
    (*out_)[key] = value;
    return;
  }
  constexpr double kLargest = 1 << 24;
  value = has(key) ? json_int(*in_, key, where_) : absent;
  checked(key, static_cast<double>(value), static_cast<double>(low), kLargest);
}

void ConfigKeys::number(const char* key, const char* field, double& value, double absent) {
  if (!reads()) {
    (*out_)[key] = value;
    return;
  }
  value = has(key) ? json_number(*in_, key, where_) : absent;
  const Range range = model_field_range(field);
  checked(key, value, range.low, range.high);
}

void ConfigKeys::factor(const char* key, double& value, double absent) {
  if (!reads()) {
    // Whole numbers without a point: some keys of transformers are of an integer type.
    const bool whole = value == std::round(value) && std::fabs(value) < 1e15;
    (*out_)[key] = whole ? Json(static_cast<int64_t>(value)) : Json(value);
    return;
  }
  value = has(key) ? json_number(*in_, key, where_) : absent;
  if (has(key)) checked(key, value, 1e-9, 1e9);
}

void ConfigKeys::flag(const char* key, bool& value, std::optional<bool> absent) {
  if (!reads()) {
    (*out_)[key] = value;
  } else if (has(key)) {
    value = json_bool(*in_, key, where_);
  } else {
    if (!absent) {
      fail(ErrorCode::damaged, "{}: key {} is {}", where_, key,
           in_->contains(key) ? "null, expected true or false" : "missing");
    }
    value = *absent;
  }
}

void ConfigKeys::text(const char* key, std::string& value, const std::vector<std::string>& known,
                      const std::string& absent) {
  if (!reads()) {
    (*out_)[key] = value;
    return;
  }
  if (!has(key) && absent.empty()) fail(ErrorCode::damaged, "{}: key {} is missing", where_, key);
  value = has(key) ? json_string(*in_, key, where_) : absent;
  if (std::find(known.begin(), known.end(), value) == known.end()) {
    fail(ErrorCode::unsupported, "{}: {} is {}, expected one of {}", where_, key, shown_json(value),
         fmt::join(known, ", "));
  }
}

void ConfigKeys::optional_number(const char* key, double& value, double absent) {
  if (!reads()) {
    (*out_)[key] = value > 0 ? Json(value) : Json(nullptr);
    return;
  }
  value = has(key) ? json_number(*in_, key, where_) : is_null(key) ? 0.0 : absent;
  if (has(key)) checked(key, value, 1e-30, 1e30);
}

void ConfigKeys::activation(const char* key, std::string& value, const std::string& absent) {
  if (!reads()) {
    for (const ActivationNames& names : activations()) {
      if (value == names.ours) (*out_)[key] = names.theirs.front();
    }
    return;
  }
  const std::string found = has(key) ? json_string(*in_, key, where_) : absent;
  std::vector<std::string> known;
  for (const ActivationNames& names : activations()) {
    for (const std::string& name : names.theirs) {
      known.push_back(name);
      if (name == found) {
        value = names.ours;
        return;
      }
    }
  }
  unsupported(key, shown_json(found), fmt::format("{}", fmt::join(known, ", ")));
}

void ConfigKeys::fixed(const char* key, const Json& only, const Json& absent) {
  if (!reads()) {
    if (!only.is_null()) (*out_)[key] = only;
    return;
  }
  const Json found = has(key) ? in_->at(key) : absent;
  if (found.is_null() || found == only) return;
  unsupported(
      key, shown_json(found),
      only.is_null() ? fmt::format("no {}", key) : fmt::format("{} = {}", key, shown_json(only)));
}

void ConfigKeys::window(const char* key, int64_t& value, int64_t absent) {
  if (!reads()) {
    (*out_)[key] = value > 0 ? Json(value) : Json(nullptr);
  } else if (is_null(key) || (absent == 0 && !has(key))) {
    value = 0;
  } else {
    integer(key, value, 1, absent);
  }
}

void ConfigKeys::windows_by_layer(int64_t window, ModelConfig& config) const {
  known_.insert("layer_types");
  const Json& types = in_->at("layer_types");
  const auto refuse = [&] {
    unsupported("layer_types", shown_json(types),
                "full_attention and, where there is a window, sliding_attention, for each layer");
  };
  if (!types.is_array() || static_cast<int64_t>(types.size()) != config.layers) refuse();
  config.window = config.first_window_layer = 0;
  config.full_layers.clear();
  for (size_t layer = 0; layer < types.size(); ++layer) {
    if (types[layer] == "full_attention") {
      if (config.window > 0) config.full_layers.push_back(static_cast<int64_t>(layer));
    } else if (types[layer] == "sliding_attention" && window > 0) {
      if (config.window == 0) config.first_window_layer = static_cast<int64_t>(layer);
      config.window = window;
    } else {
      refuse();
    }
  }
}

namespace {

Json layer_types_of(const ModelConfig& config) {
  Json types = Json::array();
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    types.push_back(config.window_of(layer) > 0 ? "sliding_attention" : "full_attention");
  }
  return types;
}

}  // namespace

void ConfigKeys::layer_types(const ModelConfig& config) const {
  constexpr const char* kKey = "layer_types";
  if (!has(kKey)) return;
  if (in_->at(kKey) != layer_types_of(config)) {
    unsupported(kKey, shown_json(in_->at(kKey)),
                "full attention, or a sliding window from one layer to the last");
  }
}

void ConfigKeys::write_layer_types(const ModelConfig& config) {
  (*out_)["layer_types"] = layer_types_of(config);
}

void ConfigKeys::sliding_layers(ModelConfig& config, int64_t absent_window, int64_t full_interval) {
  int64_t size = config.window;
  window("sliding_window", size, absent_window);
  if (!reads()) return write_layer_types(config);
  if (has("layer_types")) return windows_by_layer(size, config);
  config.window = size;
  config.first_window_layer = 0;
  config.full_layers.clear();
  if (size == 0) return;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const bool full = full_interval > 0 && (layer + 1) % full_interval == 0;
    if (full && layer == config.first_window_layer) {
      ++config.first_window_layer;
    } else if (full) {
      config.full_layers.push_back(layer);
    }
  }
  if (config.first_window_layer == config.layers) config.window = config.first_window_layer = 0;
}

void ConfigKeys::unrotated_layers(ModelConfig& config) {
  constexpr const char* kKey = "no_rope_layers";
  constexpr const char* kInterval = "no_rope_layer_interval";
  if (!reads()) {
    Json rotated = Json::array();
    for (int64_t layer = 0; layer < config.layers; ++layer)
      rotated.push_back(int(config.rotates(layer)));
    (*out_)[kKey] = rotated;
    return;
  }
  int64_t interval = 4;
  integer(kInterval, interval, 1, 4);
  config.unrotated_layers.clear();
  if (!has(kKey)) {
    for (int64_t layer = interval - 1; layer < config.layers; layer += interval) {
      config.unrotated_layers.push_back(layer);
    }
    return;
  }
  // As in transformers the list may be longer than the model.
  const Json& list = in_->at(kKey);
  const auto layers = static_cast<size_t>(config.layers);
  if (!list.is_array() || list.size() < layers) {
    fail(ErrorCode::damaged,
         "{}: {} is {}, expected a list of {} numbers, 1 for a layer with the "
         "rotary embedding and 0 for one without",
         where_, kKey, shown_json(list), config.layers);
  }
  for (size_t layer = 0; layer < layers; ++layer) {
    const Json& value = list[layer];
    if (value == 0 || value == false) {
      config.unrotated_layers.push_back(static_cast<int64_t>(layer));
    } else if (value != 1 && value != true) {
      fail(ErrorCode::damaged, "{}: {} has {} for layer {}, expected 1 or 0", where_, kKey,
           shown_json(value), layer);
    }
  }
}

void ConfigKeys::layers(const char* key, const ModelConfig& config, std::vector<int64_t>& value) {
  if (!reads()) {
    if (!value.empty()) (*out_)[key] = value;
    return;
  }
  value.clear();
  if (!has(key)) return;
  const Json& list = in_->at(key);
  for (const Json& layer : list.is_array() ? list : Json::array({nullptr})) {
    const int64_t least = value.empty() ? 0 : value.back() + 1;
    if (!is_int64(layer) || layer < least || layer >= config.layers) {
      fail(ErrorCode::damaged, "{}: {} is {}, expected numbers of layers from 0 to {}, ascending",
           where_, key, shown_json(list), config.layers - 1);
    }
    value.push_back(layer.get<int64_t>());
  }
}

}  // namespace osp
