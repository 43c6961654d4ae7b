// The keys of a config.json about the rotary embedding.
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "osp/base/error.h"
#include "osp/model/config_keys.h"

namespace osp {
namespace {

constexpr const char* kFull = "full_attention";
constexpr const char* kSliding = "sliding_attention";
constexpr const char* kOriginalContext = "original_max_position_embeddings";
constexpr double kLargestFactor = 1e6, kSmallestFactor = 1e-6;

// Copies the keys that have a value, "type" as "rope_type" where that is not there; "factor" also
// without one, which YaRN derives then.
void add_rope_keys(const Json& from, Json& to) {
  for (const auto& [key, value] : from.items()) {
    if ((value.is_null() && key != "factor") || (key == "type" && from.contains("rope_type")))
      continue;
    to[key == "type" ? "rope_type" : key] = value;
  }
}

// The keys that a type of rotary embedding has.
std::vector<std::string> known_rope_keys(const RopeScaling& scaling, const RopeKeys& family) {
  std::vector<std::string> known = {"rope_type",     "rope_theta",      "partial_rotary_factor",
                                    "factor",        "low_freq_factor", "high_freq_factor",
                                    kOriginalContext};
  const auto add = [&](std::initializer_list<const char*> keys) {
    known.insert(known.end(), keys.begin(), keys.end());
  };
  if (scaling.type == "yarn") {
    add({"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"});
  }
  if (scaling.type == "longrope") add({"attention_factor", "short_factor", "long_factor"});
  // The second is there in released models, and nothing reads it.
  if (family.query_growth) add({"llama_4_scaling_beta", "max_position_embeddings"});
  return known;
}

}  // namespace

std::vector<double> ConfigKeys::read_factors(const Json& rope, const std::string& blamed,
                                             const char* key, const ModelConfig& config) const {
  const auto pairs = static_cast<size_t>(config.rotary_size / 2);
  const Json list = rope.value(key, Json());
  if (!list.is_array() || list.size() != pairs) {
    fail(ErrorCode::damaged, "{}: {}{} is {}, expected a list of {} numbers, one for each pair",
         where_, blamed, key, shown_json(list), pairs);
  }
  std::vector<double> factors;
  for (const Json& value : list) {
    if (!value.is_number()) {
      fail(ErrorCode::damaged, "{}: {}{} has {}, expected a number", where_, blamed, key,
           shown_json(value));
    }
    factors.push_back(checked(blamed + key, value.get<double>(), kSmallestFactor, kLargestFactor));
  }
  return factors;
}

RopeScaling ConfigKeys::read_scaling(const Json& rope, const std::string& blamed,
                                     const ModelConfig& config, const RopeKeys& family) const {
  const auto number_of = [&](const char* key, double low, double high) {
    if (!rope.contains(key) || rope.at(key).is_null()) {
      fail(ErrorCode::damaged, "{}: key {}{} is missing", where_, blamed, key);
    }
    return checked(blamed + key, json_number(rope, key, where_), low, high);
  };
  const auto optional_of = [&](const char* key, double low, double absent) {
    // 0 means the default in transformers, too, but for attention_factor.
    const bool there = rope.contains(key) && rope.at(key) != 0;
    return there ? number_of(key, low, kLargestFactor) : absent;
  };
  RopeScaling scaling;
  if (rope.contains("rope_type")) scaling.type = json_string(rope, "rope_type", where_);
  std::vector<std::string> types = {"default", "linear", "dynamic", "llama3", "yarn", "longrope"};
  if (family.longrope_alone) {
    if (scaling.type == "su" || scaling.type == "yarn") scaling.type = "longrope";
    types = {"default", "longrope"};
  }
  if (std::find(types.begin(), types.end(), scaling.type) == types.end()) {
    unsupported(blamed + "rope_type", shown_json(scaling.type),
                fmt::format("{}", fmt::join(types, ", ")));
  }
  const bool long_text = scaling.type == "longrope", yarn = scaling.type == "yarn";
  // The context that the model was trained for.
  if (scaling.type != "default" && scaling.type != "linear") {
    scaling.original_context = config.context;
  }
  if (rope.contains(kOriginalContext) && scaling.type != "dynamic" && scaling.type != "linear") {
    const bool counts = scaling.type != "default" || family.query_growth;
    if (counts) {
      scaling.original_context =
          static_cast<int64_t>(number_of(kOriginalContext, long_text ? 2 : 1, 1 << 24));
    }
  }
  if (family.query_growth) {
    if (scaling.type == "default" || scaling.type == "linear" || scaling.type == "dynamic") {
      scaling.original_context = static_cast<int64_t>(number_of(kOriginalContext, 1, 1 << 24));
    }
    scaling.query_growth = number_of("llama_4_scaling_beta", 0.0, kLargestFactor);
  }
  // The factor of the frequencies; longrope derives the one of its magnitude.
  const bool factor_is_null = rope.contains("factor") && rope.at("factor").is_null();
  if ((long_text && (factor_is_null || !rope.contains("factor"))) || (yarn && factor_is_null)) {
    scaling.factor =
        static_cast<double>(config.context) / static_cast<double>(scaling.original_context);
  } else if (scaling.type != "default") {
    scaling.factor = number_of("factor", long_text ? kSmallestFactor : 1.0, kLargestFactor);
  }
  if (yarn || long_text) {
    if (rope.contains("attention_factor")) {
      scaling.attention_factor = number_of("attention_factor", kSmallestFactor, kLargestFactor);
    }
  }
  if (yarn) {
    scaling.beta_fast = optional_of("beta_fast", kSmallestFactor, 32.0);
    scaling.beta_slow = optional_of("beta_slow", kSmallestFactor, 1.0);
    scaling.mscale = optional_of("mscale", kSmallestFactor, 0.0);
    scaling.mscale_all_dim = optional_of("mscale_all_dim", kSmallestFactor, 0.0);
    if (rope.contains("truncate")) scaling.truncate = json_bool(rope, "truncate", where_);
    if (family.local_theta && !scaling.truncate) {
      unsupported(blamed + "truncate", "false", "truncate = true in this family");
    }
  }
  if (long_text) {
    scaling.short_factor = read_factors(rope, blamed, "short_factor", config);
    scaling.long_factor = read_factors(rope, blamed, "long_factor", config);
  }
  if (scaling.type == "llama3") {
    scaling.low_frequency_factor = number_of("low_freq_factor", 1e-6, 1e6);
    scaling.high_frequency_factor = number_of("high_freq_factor", 1e-6, 1e6);
    if (!(scaling.high_frequency_factor > scaling.low_frequency_factor)) {
      fail(ErrorCode::damaged, "{}: {}high_freq_factor = {} is not above low_freq_factor = {}",
           where_, blamed, scaling.high_frequency_factor, scaling.low_frequency_factor);
    }
  }
  const std::vector<std::string> known = known_rope_keys(scaling, family);
  for (const auto& [key, value] : rope.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      unsupported(blamed + shown_json(key), shown_json(value),
                  fmt::format("{}", fmt::join(known, ", ")));
    }
  }
  return scaling;
}

// The number of channels of a head that are rotated.
void ConfigKeys::read_rotated_part(const Json& rope, ModelConfig& config,
                                   const RopeKeys& family) const {
  double partial = family.partial.value_or(1.0);
  // transformers then rotates heads whole in one family and fails in another.
  if (family.partial && is_null("partial_rotary_factor") &&
      !rope.contains("partial_rotary_factor")) {
    unsupported("partial_rotary_factor", "null", "a number, or no key for the family's");
  }
  if (rope.contains("partial_rotary_factor")) {
    partial = checked("partial_rotary_factor", json_number(rope, "partial_rotary_factor", where_),
                      0.0, 1.0);
  }
  const int64_t head = config.head_size > 0 ? config.head_size : config.width / config.heads;
  config.rotary_size = static_cast<int64_t>(static_cast<double>(head) * partial);
  if (family.channels > 0) {
    config.rotary_size = family.channels;
    return;
  }
  const bool allowed = family.partial && config.rotary_size >= 2 && config.rotary_size % 2 == 0;
  if (partial != 1.0 && !allowed) {
    unsupported("partial_rotary_factor", fmt::format("{}", partial),
                family.partial ? fmt::format("an even number of the {} channels of a head", head)
                               : "partial_rotary_factor = 1.0");
  }
}

// The base of the blocks with a window: rope_parameters.sliding_attention or a key beside it.
void ConfigKeys::read_local_rope(ModelConfig& config, const RopeKeys& family) const {
  Json rope = Json::object();
  if (has("rope_parameters") && in_->at("rope_parameters").contains(kSliding)) {
    const Json& local = in_->at("rope_parameters").at(kSliding);
    if (local.is_object()) add_rope_keys(local, rope);
  }
  const std::string blamed = fmt::format("rope_parameters.{}.", kSliding);
  for (const auto& [key, value] : rope.items()) {
    if (key == "rope_theta" || (key == "rope_type" && value == "default")) continue;
    unsupported(blamed + shown_json(key), shown_json(value),
                "the unscaled rotary embedding in blocks with a window");
  }
  const bool beside = *family.local_key != '\0' && has(family.local_key);
  if (beside && !rope.contains("rope_theta")) rope["rope_theta"] = in_->at(family.local_key);
  const Range range = model_field_range("rope_theta");
  config.local_rope_theta = *family.local_theta;
  if (rope.contains("rope_theta")) {
    config.local_rope_theta = checked(
        blamed + "rope_theta", json_number(rope, "rope_theta", where_), range.low, range.high);
  }
}

void ConfigKeys::read_rope(ModelConfig& config, const RopeKeys& family) const {
  // One object with every key of the rotary embedding, and the name that begins those in messages.
  Json rope = Json::object();
  std::string blamed;
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    if (!has(name)) continue;
    if (!in_->at(name).is_object()) {
      fail(ErrorCode::damaged, "{}: {} is {}, expected an object", where_, name,
           shown_json(in_->at(name)));
    }
    if (in_->at(name).empty()) continue;
    const bool by_kind = family.local_theta && name == std::string_view("rope_parameters");
    if (!by_kind) {
      // The second takes the place of the first, or is added to its part for blocks
      // without windows.
      if (!family.local_theta) rope = Json::object();
      if (family.local_theta && !in_->at(name).contains("rope_type")) {
        unsupported(name, shown_json(in_->at(name)), "one with a rope_type in this family");
      }
      blamed = std::string(name) + ".";
      add_rope_keys(in_->at(name), rope);
      continue;
    }
    for (const auto& [kind, part] : in_->at(name).items()) {
      const bool known =
          (kind == kFull || kind == kSliding) && (part.is_object() || part.is_null());
      if (!known) {
        unsupported(fmt::format("{}.{}", name, shown_json(kind)), shown_json(part),
                    fmt::format("an object for {} and one for {}", kFull, kSliding));
      }
      blamed = fmt::format("{}.{}.", name, kFull);
      if (kind == kFull && part.is_object()) add_rope_keys(part, rope);
    }
  }
  if (rope.empty() && family.parameters.is_object()) rope = family.parameters;
  const auto add = [&](const char* key, const Json& value) {
    if (!value.is_null() && !rope.contains(key)) rope[key] = value;
  };
  for (const auto& [key, family_name] :
       {std::pair{"rope_theta", family.theta_key}, {"partial_rotary_factor", family.partial_key}}) {
    if (has(family_name)) add(key, in_->at(family_name));
    // A family with a name of its own passes the common one over; so it must say the same.
    if (!has(key) || rope.value(key, Json()) == in_->at(key)) continue;
    if (std::string_view(key) != family_name) {
      unsupported(key, shown_json(in_->at(key)),
                  fmt::format("what {} and rope_parameters say: {}", family_name,
                              shown_json(rope.value(key, Json()))));
    }
  }
  const Json type = rope.value("rope_type", Json());
  const bool scaled = type == "llama3" || type == "yarn" || type == "longrope" || type == "su";
  if (has(kOriginalContext) && scaled) {
    rope[kOriginalContext] = in_->at(kOriginalContext);
  } else if (family.original_context > 0 && scaled) {
    rope[kOriginalContext] = family.original_context;
  }
  const Range range = model_field_range("rope_theta");
  config.rope_theta = family.theta;
  if (rope.contains("rope_theta")) {
    config.rope_theta =
        checked("rope_theta", json_number(rope, "rope_theta", where_), range.low, range.high);
  }
  read_rotated_part(rope, config, family);
  config.rope_scaling = read_scaling(rope, blamed, config, family);
  if (config.rope_scaling.type == "yarn" && config.rope_theta <= 1.0) {
    fail(ErrorCode::damaged, "{}: rope_theta is {}, expected a number above 1 for yarn", where_,
         config.rope_theta);
  }
  if (family.local_theta) read_local_rope(config, family);
}

void ConfigKeys::rope(ModelConfig& config, const RopeKeys& family) {
  if (reads()) {
    read_rope(config, family);
    return;
  }
  // Keys of every embedding, then those of its kind of scaling.
  const RopeScaling& scaling = config.rope_scaling;
  Json rope = {{"rope_theta", config.rope_theta}, {"rope_type", scaling.type}};
  if (family.partial) {
    rope["partial_rotary_factor"] = rotary_fraction(config.rotary_size, config.head_size);
  }
  const bool long_text = scaling.type == "longrope", yarn = scaling.type == "yarn";
  if (scaling.type != "default") rope["factor"] = scaling.factor;
  if (scaling.type == "llama3") {
    rope["low_freq_factor"] = scaling.low_frequency_factor;
    rope["high_freq_factor"] = scaling.high_frequency_factor;
  }
  if (scaling.type == "llama3" || yarn || long_text || family.query_growth) {
    rope[kOriginalContext] = scaling.original_context;
  }
  if ((yarn || long_text) && scaling.attention_factor > 0) {
    rope["attention_factor"] = scaling.attention_factor;
  }
  if (yarn) {
    rope["beta_fast"] = scaling.beta_fast;
    rope["beta_slow"] = scaling.beta_slow;
    if (scaling.mscale > 0) rope["mscale"] = scaling.mscale;
    if (scaling.mscale_all_dim > 0) rope["mscale_all_dim"] = scaling.mscale_all_dim;
    if (!scaling.truncate) rope["truncate"] = false;
  }
  if (long_text) {
    rope["short_factor"] = scaling.short_factor;
    rope["long_factor"] = scaling.long_factor;
    if (family.original_context > 0) (*out_)[kOriginalContext] = scaling.original_context;
  }
  if (family.query_growth) rope["llama_4_scaling_beta"] = scaling.query_growth;
  // Families with two embeddings have a list for each kind of block.
  if (family.local_theta) {
    const Json local = {{"rope_theta", config.local_rope_theta}, {"rope_type", "default"}};
    rope = {{kFull, rope}, {kSliding, local}};
    if (*family.local_key != '\0') (*out_)[family.local_key] = config.local_rope_theta;
  }
  // Write them where transformers looks for them.
  (*out_)["rope_parameters"] = rope;
  (*out_)["rope_theta"] = config.rope_theta;  // where older versions of transformers look for it
}

}  // namespace osp
