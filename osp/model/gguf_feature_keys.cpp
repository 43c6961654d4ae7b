#include "osp/model/gguf_feature_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/model/gguf_family_keys.h"

namespace osp {
namespace {

// Keys of all architectures that osp follows.
constexpr std::array<std::string_view, 14> kFollowedKeys = {"context_length",
                                                            "embedding_length",
                                                            "block_count",
                                                            "feed_forward_length",
                                                            "vocab_size",
                                                            "attention.head_count",
                                                            "attention.head_count_kv",
                                                            "attention.key_length",
                                                            "attention.value_length",
                                                            "attention.layer_norm_rms_epsilon",
                                                            "rope.dimension_count",
                                                            "rope.freq_base",
                                                            "expert_feed_forward_length",
                                                            "expert_shared_feed_forward_length"};
// Keys that inform alone: about the text the model was trained on, the order of rows in files of
// the first versions, and what other programs do with the last state or begin a text with. No
// architecture here has a norm of the second epsilon.
constexpr std::array<std::string_view, 7> kInformingKeys = {"rope.scaling.original_context_length",
                                                            "rope.scaling.finetuned",
                                                            "attention.layer_norm_epsilon",
                                                            "tensor_data_layout",
                                                            "pooling_type",
                                                            "classifier.output_labels",
                                                            "decoder_start_token_id"};
// Factors that change nothing as 1; the first seven are taken for absent as 0, too.
constexpr std::array<std::string_view, 9> kFactors = {
    "rope.scaling.factor",    "rope.scale_linear",        "logit_scale",
    "residual_scale",         "embedding_scale",          "expert_weights_scale",
    "attention.output_scale", "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"};
constexpr size_t kFactorsAbsentAsZero = 7;
// Groups of keys that have no architecture in front.
constexpr std::array<std::string_view, 2> kBareGroups = {"xielu.", "diffusion."};

template <size_t N>
bool is_one_of(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

struct FeatureKeys {
  const GgufMetadata& metadata;
  std::string_view architecture;

  std::string full(std::string_view name) const { return fmt::format("{}.{}", architecture, name); }

  // True if attention scales its products as without the key: by 1 / sqrt(channels of a head). A
  // Gemma has other rules.
  bool is_usual_scale(double number) const {
    if (architecture.starts_with("gemma")) return false;
    const std::string length = full("attention.key_length");
    const std::string width = full("embedding_length"), heads = full("attention.head_count");
    double size = 0;
    if (metadata.has(length)) {
      size = static_cast<double>(metadata.integer(length));
    } else if (metadata.has(width) && metadata.has(heads) &&
               !metadata.values().find(heads)->second.is_array) {
      size = metadata.number(width) / metadata.number(heads);
    }
    return std::fabs(number * std::sqrt(size) - 1.0) < 1e-6;  // files hold fp32
  }

  // True if the layers with a window have what all layers have.
  bool is_that_of_all_layers(std::string_view name, double number) const {
    constexpr std::string_view kWindowed = "_swa";
    if (!name.ends_with(kWindowed)) return false;
    const std::string all = full(name.substr(0, name.size() - kWindowed.size()));
    const auto found = metadata.values().find(all);
    return found != metadata.values().end() && !found->second.is_array &&
           found->second.type != GgufType::string && found->second.type != GgufType::boolean &&
           metadata.number(all) == number;
  }

  bool is_neutral_number(std::string_view name, double number) const {
    const auto* factor = std::ranges::find(kFactors, name);
    if (factor != kFactors.end()) {
      const bool absent = factor < kFactors.begin() + kFactorsAbsentAsZero && number == 0.0;
      return number == 1.0 || absent;
    }
    if (name == "attention.scale" && is_usual_scale(number)) return true;
    return number == 0.0 || is_that_of_all_layers(name, number);
  }

  bool is_neutral(const std::string& key, std::string_view name) const {
    const GgufValue& value = metadata.values().find(key)->second;
    if (value.type == GgufType::boolean) {
      const bool neutral = name == "attention.causal";
      return std::ranges::all_of(value.bytes,
                                 [&](std::byte one) { return (one != std::byte{0}) == neutral; });
    }
    if (value.type == GgufType::string) {
      if (value.is_array) return value.count == 0;
      const std::string_view text = metadata.text(key);
      // The factor of a linear scaling is a key of its own.
      return text == "none" || (name == "rope.scaling.type" && text == "linear");
    }
    const std::vector<double> numbers =
        value.is_array ? metadata.numbers(key) : std::vector<double>{metadata.number(key)};
    return std::ranges::all_of(numbers,
                               [&](double number) { return is_neutral_number(name, number); });
  }

  std::string shown(const std::string& key) const {
    const GgufValue& value = metadata.values().find(key)->second;
    if (value.is_array) return "given";
    if (value.type == GgufType::boolean) return metadata.flag(key) ? "true" : "false";
    if (value.type == GgufType::string) {
      return fmt::format("\"{}\"", printable(metadata.text(key)));
    }
    return fmt::format("{}", metadata.number(key));
  }
};

}  // namespace

void refuse_gguf_features(const GgufMetadata& metadata, std::string_view architecture) {
  const FeatureKeys keys{metadata, architecture};
  const std::string prefix = keys.full("");
  for (const auto& [key, value] : metadata.values()) {
    const bool bare = std::ranges::any_of(
        kBareGroups, [&](std::string_view group) { return key.starts_with(group); });
    if (!bare && !key.starts_with(prefix)) continue;
    const std::string_view name = std::string_view(key).substr(bare ? 0 : prefix.size());
    // Of a Granite, llama.cpp takes this key for whether there is a rotary embedding at all.
    const bool turns =
        name != "rope.scaling.finetuned" || architecture != "granite" || metadata.flag(key);
    if (turns && (is_one_of(kFollowedKeys, name) || is_one_of(kInformingKeys, name) ||
                  is_gguf_family_key(architecture, name) || keys.is_neutral(key, name))) {
      continue;
    }
    fail(ErrorCode::unsupported,
         "{}: {} = {} is not supported: osp computes a {} without what this key asks for",
         metadata.where(), printable(key), keys.shown(key), architecture);
  }
}

}  // namespace osp
