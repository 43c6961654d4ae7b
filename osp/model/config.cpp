#include "osp/model/config.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"

namespace osp {

namespace {

// Blocks times experts: bounds the list of parameters, which is made before any tensor is
// looked at.
constexpr int64_t kMostExperts = 1 << 16;

std::string wrong_experts(const ModelConfig& config) {
  if (config.experts == 0) {
    const bool extra = config.expert_bias || config.routing_of_chosen || config.swiglu_limit != 0 ||
                       config.attention_sinks;
    return extra ? "attention sinks, the clamped SwiGLU and biases of experts are supported in "
                   "mixtures of experts alone"
                 : "";
  }
  if (config.experts < 0 || config.experts > kMostExperts / config.layers) {
    return fmt::format("{} blocks of {} experts are {} experts, osp supports {} in a model",
                       config.layers, config.experts, config.layers * config.experts, kMostExperts);
  }
  if (config.experts_per_token < 1 || config.experts_per_token > config.experts) {
    return fmt::format("{} experts per token of {} experts: expected a number from 1 to {}",
                       config.experts_per_token, config.experts, config.experts);
  }
  if (config.expert_inner < 1) {
    return fmt::format("experts of inner size {}: expected at least 1", config.expert_inner);
  }
  if (config.routing_of_chosen && config.normalized_routing) {
    return "weights that are divided by their sum and weights by the softmax of the chosen logits "
           "contradict each other";
  }
  if (config.swiglu_limit != 0 && !config.dense_layers.empty()) {
    return "the clamped SwiGLU of experts beside blocks without experts is not supported";
  }
  const bool llama = config.gated && !config.mlp_bias && !config.parallel && !config.shared_norm &&
                     !config.branch_scale && !config.norm_around && !config.norm_after;
  return llama ? ""
               : "experts beside biases, branch scales, parallel branches or norms behind "
                 "branches are not supported";
}

}  // namespace

std::vector<int64_t> ModelConfig::inner_sizes() const {
  std::vector<int64_t> sizes;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const int64_t size = inner_of(layer);
    if (std::find(sizes.begin(), sizes.end(), size) == sizes.end()) sizes.push_back(size);
  }
  return sizes;
}

ModelConfig resolved_config(ModelConfig config) {
  const auto check = [](bool ok, const std::string& message) {
    if (!ok) throw Error(ErrorCode::usage, message);
  };
  // Derive the sizes that are 0, and check them.
  if (config.kv_heads == 0) config.kv_heads = config.heads;
  if (config.head_size == 0) {
    check(config.width % config.heads == 0,
          fmt::format("model.heads = {} does not divide model.width = {}: choose a divisor, or "
                      "set model.head_size",
                      config.heads, config.width));
    config.head_size = config.width / config.heads;
  }
  check(config.heads % config.kv_heads == 0,
        fmt::format("model.kv_heads = {} does not divide model.heads = {}: choose a divisor",
                    config.kv_heads, config.heads));
  check(config.learned_positions || config.head_size % 2 == 0,
        fmt::format("the head size {} is odd: the rotary embedding turns pairs of channels, "
                    "choose an even model.head_size",
                    config.head_size));
  if (config.rotary_size == 0) config.rotary_size = config.head_size;
  check(config.learned_positions ||
            (config.rotary_size <= config.head_size && config.rotary_size % 2 == 0),
        fmt::format("{} of {} channels of a head are rotated: the rotary embedding turns pairs, "
                    "choose an even number of them",
                    config.rotary_size, config.head_size));
  if (config.inner == 0) config.inner = (8 * config.width / 3 + 127) / 128 * 128;
  // Refuse options that contradict each other.
  check(!(config.tied && config.embedding_projection),
        "model.tied = true and model.embedding_projection = true contradict each other: the two "
        "projections make two different tables; set one of them to false");
  check(!(config.norm == "none" && (config.norm_after || config.norm_around)),
        "model.norm = \"none\" leaves no norms in the blocks that could follow the branches: "
        "choose another norm");
  check(!(config.norm == "none" && config.shared_norm),
        "model.norm = \"none\" leaves no norm in the blocks that the branches could share: choose "
        "another norm");
  check(!(config.norm_after && config.norm_around),
        "norms after the branches and norms around them contradict each other: choose one of them");
  check(!(config.norm_around && (config.parallel || config.shared_norm)),
        "norms around the branches and branches side by side contradict each other: choose one of "
        "them");
  check(!(config.branch_scale && (config.norm_after || config.norm_around)),
        "model.branch_scale = true and norms after the branches contradict each other: the scalar "
        "could not be multiplied into the projection; set it to false");
  check(!(config.embedding_norm && config.learned_positions),
        "model.embedding_norm = true and learned positions contradict each other: the norm could "
        "not be computed for each token alone; set it to false");
  check(!(config.embedding_norm && config.embedding_multiplier != 1.0),
        "model.embedding_norm = true and a factor of the embedding contradict each other: the norm "
        "takes the factor away; set it to false");
  const std::string experts = wrong_experts(config);
  check(experts.empty(), experts);
  check(config.branch_scale || config.branch_scale_init == 0.0,
        fmt::format("model.branch_scale_init = {} without branch scales: set model.branch_scale = "
                    "true, or leave it 0",
                    config.branch_scale_init));
  if (config.branch_scale && config.branch_scale_init == 0.0) {
    config.branch_scale_init = 1.0 / std::sqrt(2.0 * static_cast<double>(config.layers));
  }
  return config;
}

}  // namespace osp
