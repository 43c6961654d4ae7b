#include "osp/model/gguf_expert_keys.h"

#include <algorithm>
#include <array>
#include <string>

#include "osp/base/error.h"
#include "osp/model/gguf_keys.h"

namespace osp {
namespace {

constexpr std::array<GgufRouting, 3> kRoutings = {{
    {"qwen3moe", 1, true},
    {"olmoe", 1, false},
    {"gpt-oss", 3, false},
}};

constexpr std::array<std::string_view, 5> kExpertKeys = {
    "expert_count", "expert_used_count", "expert_feed_forward_length", "expert_gating_func",
    "expert_weights_norm"};

// Keys that say what the architecture says already.
void check_routing(const GgufKeys& keys, const GgufRouting& routing) {
  const int64_t function = keys.integer("expert_gating_func", routing.gating_function);
  const std::string norm = keys.full("expert_weights_norm");
  const bool normalized =
      keys.has("expert_weights_norm") ? keys.metadata().flag(norm) : routing.normalized;
  if (function != routing.gating_function) {
    fail(ErrorCode::unsupported, "{}: {} is {}, and osp computes a {} with {}",
         keys.metadata().where(), keys.full("expert_gating_func"), function, routing.architecture,
         routing.gating_function);
  }
  if (normalized != routing.normalized) {
    fail(ErrorCode::unsupported, "{}: {} is {}, and osp computes a {} with {}",
         keys.metadata().where(), norm, normalized, routing.architecture, routing.normalized);
  }
}

}  // namespace

const GgufRouting* find_gguf_routing(std::string_view architecture) {
  const auto* found = std::ranges::find(kRoutings, architecture, &GgufRouting::architecture);
  return found == kRoutings.end() ? nullptr : found;
}

bool is_gguf_expert_key(std::string_view architecture, std::string_view key) {
  return find_gguf_routing(architecture) != nullptr &&
         std::ranges::find(kExpertKeys, key) != kExpertKeys.end();
}

void add_gguf_expert_keys(const GgufFile& file, std::string_view architecture, Json& json) {
  const GgufRouting* const routing = find_gguf_routing(architecture);
  if (routing == nullptr) return;
  const GgufKeys keys(file, architecture);
  check_routing(keys, *routing);
  const GgufMetadata& metadata = file.metadata();
  json["num_experts"] = metadata.integer(keys.full("expert_count"));
  json["num_experts_per_tok"] = metadata.integer(keys.full("expert_used_count"));
  if (architecture == "qwen3moe") {
    json["moe_intermediate_size"] = metadata.integer(keys.full("expert_feed_forward_length"));
  }
  if (architecture == "gpt-oss") {
    json["intermediate_size"] = metadata.integer(keys.full("expert_feed_forward_length"));
    json["swiglu_limit"] = kGgufSwigluLimit;
    json["swiglu_alpha"] = kGgufSwigluAlpha;
  } else {
    json["norm_topk_prob"] = routing->normalized;
  }
}

}  // namespace osp
