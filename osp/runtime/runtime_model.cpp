#include "osp/runtime/runtime_model.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/ops/hadamard_matrix.h"

namespace osp {
namespace {

using Role = ParameterRole;
using kernels::CodeGrid;
using kernels::kPanelOutputs;

constexpr int64_t kLargestColumns = 1 << 16;  // sums of products of 8-bit codes fit 31 bits

std::vector<float> floats_of(const at::Tensor& x) {
  const at::Tensor flat = x.detach().to(at::kFloat).contiguous().flatten();
  const float* data = flat.const_data_ptr<float>();
  return {data, data + flat.numel()};
}

// The gain of a norm for each of `channels`.
std::vector<float> gain_of(const ParameterStore& store, Role role, int64_t layer,
                           int64_t channels) {
  const int64_t parameter = store.find(role, layer);
  if (parameter < 0) return {};
  std::vector<float> gain = floats_of(store.master(parameter));
  if (gain.size() == 1) gain.assign(static_cast<size_t>(channels), gain.front());
  OSP_CHECK(static_cast<int64_t>(gain.size()) == channels, "{} gains for {} channels", gain.size(),
            channels);
  return gain;
}

std::string not_a_llama(const ModelConfig& config) {
  if (config.layer_norm()) return "its norms are LayerNorms";
  if (!config.norm_before() || config.norm_around || config.embedding_norm || config.branch_scale) {
    return "its norms do not stand in front of the branches alone";
  }
  if (config.attention_sinks) return "its attention has learned sinks, and it has experts";
  if (config.has_experts()) return "its feed-forward networks are mixtures of experts";
  if (config.parallel) return "its branches are parallel";
  if (!config.gated) return "its feed-forward network has no gate";
  if (config.activation != "silu") return "its activation function is " + config.activation;
  if (config.learned_positions) return "its positions are learned";
  if (config.clip_qkv > 0) return "its queries, keys and values are clipped";
  if (config.embedding_projection) return "its embedding projections are not fused";
  if (config.attention_softcap > 0 || config.logit_softcap > 0) return "its logits are capped";
  if (config.local_rope_theta > 0) {
    return "its blocks with a window have a rotary embedding of their own";
  }
  if (config.residual_multiplier != 1.0 && config.qk_norm) {
    return "its branches have a constant factor beside norms of queries and keys";
  }
  return "";
}

std::string unsuitable_size(const ModelConfig& config) {
  const auto odd = [](int64_t size) { return size % kPanelOutputs != 0; };
  if (odd(config.width)) return fmt::format("its width {} is no multiple of 16", config.width);
  if (odd(config.inner)) return fmt::format("its inner size {} is no multiple of 16", config.inner);
  if (odd(config.head_size) || config.head_size > kernels::kLargestHead) {
    return fmt::format("its head size {} is no multiple of 16 up to {}", config.head_size,
                       kernels::kLargestHead);
  }
  if (std::max(config.width, config.inner) > kLargestColumns) {
    return fmt::format("a layer has more than {} inputs", kLargestColumns);
  }
  return "";
}

int64_t columns_of(TapPoint point, const ModelConfig& config) {
  if (point == TapPoint::mlp_product) return config.inner;
  return point == TapPoint::attention_output ? config.heads * config.head_size : config.width;
}

std::string unsuitable_groups(const ModelConfig& config, int64_t weight_group,
                              const ActivationGrids& grids) {
  for (const TapPoint point : {TapPoint::attention_input, TapPoint::attention_output,
                               TapPoint::mlp_input, TapPoint::mlp_product}) {
    const int64_t columns = columns_of(point, config);
    const int64_t group = activation_group(grids.groups, point, config);
    const int64_t segment = common_segment(weight_group, group, columns);
    if (segment % kPanelOutputs != 0 || segment == 0) {
      return fmt::format(
          "groups of {} weights and {} activations have no common part that is a "
          "multiple of 16",
          weight_group == 0 ? columns : weight_group, group);
    }
  }
  return "";
}

CodeGrid dynamic_grid(int64_t bits, int64_t group, int64_t segment, bool free_range, double clip) {
  CodeGrid grid;
  grid.group = group;
  grid.segment = segment;
  grid.free_range = free_range;
  grid.clip = static_cast<float>(clip);
  grid.top = static_cast<float>((1 << bits) - 1);
  grid.shift = bits == 8 ? 128.0f : 0.0f;
  return grid;
}

CodeGrid input_grid(const QuantizedParts& parts, TapPoint point, int64_t layer) {
  const ModelConfig& config = parts.config;
  const int64_t group = activation_group(parts.grids.groups, point, config);
  if (!parts.bits.quantizes_activations()) {
    // Not quantized: 16-bit codes with a scale for each segment of the weights.
    CodeGrid grid;
    grid.digits = 2;
    grid.segment = common_segment(parts.weight_group, group, columns_of(point, config));
    grid.group = grid.segment;
    return grid;
  }
  CodeGrid grid = dynamic_grid(parts.bits.activations.bits, group,
                               common_segment(parts.weight_group, group, columns_of(point, config)),
                               point == TapPoint::attention_output, parts.grids.clips.activations);
  const auto fixed = parts.grids.scales.find({point, layer});
  if (fixed != parts.grids.scales.end()) {
    grid.fixed = true;
    grid.fixed_scale = static_cast<float>(fixed->second.scale);
    grid.fixed_zero = static_cast<float>(fixed->second.zero);
  }
  return grid;
}

// Fills one layer after the other.
class LayerBuilder {
 public:
  LayerBuilder(const QuantizedParts& parts, int64_t layer)
      : parts_(parts), config_(parts.config), store_(parts.read(layer, weights_)) {}

  void build(int64_t layer, RuntimeLayer& out) const {
    const int64_t D = config_.width, K = config_.head_size;
    out.input_gain = gain_of(store_, Role::input_norm, layer, D);
    out.post_gain = gain_of(store_, Role::post_attention_norm, layer, D);
    if (config_.qk_norm) {
      const bool wide = config_.qk_norm_wide;
      out.query_gain = gain_of(store_, Role::query_norm, layer, wide ? config_.heads * K : K);
      out.key_gain = gain_of(store_, Role::key_norm, layer, wide ? config_.kv_heads * K : K);
    }
    out.attention_input_offset = offset(TapPoint::attention_input, layer);
    out.attention_output_offset = offset(TapPoint::attention_output, layer);
    out.mlp_input_offset = offset(TapPoint::mlp_input, layer);
    out.mlp_product_offset = offset(TapPoint::mlp_product, layer);
    out.qkv = packed({Role::query, Role::key, Role::value}, TapPoint::attention_input, layer,
                     out.attention_input_grid, false);
    out.attention_output = packed({Role::attention_output}, TapPoint::attention_output, layer,
                                  out.attention_output_grid, false);
    out.gate_up =
        packed({Role::gate, Role::up}, TapPoint::mlp_input, layer, out.mlp_input_grid, true);
    out.down = packed({Role::down}, TapPoint::mlp_product, layer, out.mlp_product_grid, false);
  }

 private:
  std::vector<float> offset(TapPoint point, int64_t layer) const {
    const auto found = parts_.grids.offsets.find({point, layer});
    return found == parts_.grids.offsets.end() ? std::vector<float>{} : floats_of(found->second);
  }

  PackedLinear packed(const std::vector<Role>& roles, TapPoint point, int64_t layer,
                      const CodeGrid& grid, bool in_turns) const {
    std::vector<LinearPart> linears;
    for (const Role role : roles) {
      const auto found = weights_.find(parameter_name(role, layer));
      OSP_CHECK(found != weights_.end(), "{} is not quantized", parameter_name(role, layer));
      linears.push_back({&found->second, bias_of(role, layer, point, found->second)});
    }
    return pack_linear(linears, grid.segment, in_turns);
  }

  // The layer's own bias and what its input's offset gives, in fp64; undefined without both.
  at::Tensor bias_of(Role role, int64_t layer, TapPoint point,
                     const QuantizedLinear& weight) const {
    at::Tensor bias;
    const int64_t own = store_.find_bias(role, layer);
    if (own >= 0) bias = store_.master(own).to(at::kDouble).contiguous();
    const auto offset = parts_.grids.offsets.find({point, layer});
    if (offset == parts_.grids.offsets.end()) return bias;
    const at::Tensor constant =
        weight.dequantized().to(at::kDouble).mul(offset->second.to(at::kDouble)).sum(-1);
    return (bias.defined() ? bias + constant : constant).contiguous();
  }

  const QuantizedParts& parts_;
  const ModelConfig& config_;
  QuantizedWeights weights_;
  ParameterStore store_;
};

}  // namespace

std::string why_not_in_integers(const QuantizedParts& parts) {
  const BitWidths& bits = parts.bits;
  const ModelConfig& config = parts.config;
  for (const auto& [format, what] :
       {std::pair(bits.weights, "weights are"), std::pair(bits.activations, "activations are"),
        std::pair(bits.kv_cache, "KV cache holds")}) {
    if (format.is_float()) {
      return fmt::format("its {} {} numbers, and the engine computes with integers", what,
                         format.text());
    }
  }
  if (bits.weights.bits > 8) return fmt::format("its weights have {} bits", bits.weights.bits);
  const auto odd = [](const NumberFormat& format) { return format.bits > 8 && format.bits != 16; };
  if (odd(bits.activations)) {
    return fmt::format("its activations have {} bits", bits.activations.bits);
  }
  if (odd(bits.kv_cache)) return fmt::format("its KV cache has {} bits", bits.kv_cache.bits);
  for (const std::string& reason : {not_a_llama(config), unsuitable_size(config),
                                    unsuitable_groups(config, parts.weight_group, parts.grids)}) {
    if (!reason.empty()) return reason;
  }
  if (parts.online.query_key_hadamard && hadamard_factors(config.head_size).blocks == 0) {
    return fmt::format("no Hadamard matrix of its head size {} is known", config.head_size);
  }
  return "";
}

std::vector<uint16_t> to_half(const at::Tensor& x, const std::string& what) {
  // Some numbers at a time: a table may be half of the model.
  constexpr int64_t kNumbersAtOnce = 1 << 20;
  const at::Tensor flat = x.detach().contiguous().flatten();
  std::vector<uint16_t> out;
  out.reserve(static_cast<size_t>(flat.numel()));
  for (int64_t begin = 0; begin < flat.numel(); begin += kNumbersAtOnce) {
    leave_files_if_stopped("weights were read");
    const int64_t count = std::min(kNumbersAtOnce, flat.numel() - begin);
    const at::Tensor wide = flat.narrow(0, begin, count).to(at::kFloat);
    if (!(wide.abs().max().item<float>() <= 65504.0f)) {
      fail(ErrorCode::unsupported, "{}: a number beyond 65504 does not fit 16 bits", what);
    }
    const at::Tensor half = wide.to(at::kHalf);
    const auto* data = static_cast<const uint16_t*>(half.const_data_ptr());
    out.insert(out.end(), data, data + count);
  }
  return out;
}

HadamardTable::HadamardTable(int64_t block) : size_(block) {
  if (block == 0) return;
  const HadamardFactors factors = hadamard_factors(block);
  OSP_CHECK(factors.blocks > 0, "no Hadamard matrix of {}", block);
  blocks_ = factors.blocks;
  base_ = factors.base;
  matrix_ = hadamard_matrix(base_);
}

kernels::HadamardPlan HadamardTable::plan() const {
  return {.size = size_,
          .blocks = blocks_,
          .base = base_,
          .matrix = matrix_.data(),
          .factor = static_cast<float>(1.0 / std::sqrt(static_cast<double>(size_)))};
}

std::unique_ptr<RuntimeModel> runtime_frame(const QuantizedParts& parts) {
  const ModelConfig& config = parts.config;
  const std::string reason = why_not_in_integers(parts);
  if (!reason.empty()) fail(ErrorCode::unsupported, "the integer engine: {}", reason);
  auto model = std::make_unique<RuntimeModel>();
  model->config = config;
  // x = m (e / m + Σ branches) has the same norm as the bracket, with eps / m² in it.
  const double m = config.residual_multiplier;
  model->config.embedding_multiplier = config.embedding_multiplier / m;
  model->config.norm_eps = config.norm_eps / (m * m);
  model->config.residual_multiplier = 1.0;
  // Longer texts would turn the keys that are in the cache anew.
  if (config.rope_scaling.type == "longrope") {
    model->config.context = std::min(config.context, config.rope_scaling.original_context);
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    RuntimeLayer& out = model->layers.emplace_back();
    out.attention_input_grid = input_grid(parts, TapPoint::attention_input, layer);
    out.attention_output_grid = input_grid(parts, TapPoint::attention_output, layer);
    out.mlp_input_grid = input_grid(parts, TapPoint::mlp_input, layer);
    out.mlp_product_grid = input_grid(parts, TapPoint::mlp_product, layer);
  }
  // Online transforms and the grids of the cache.
  if (parts.online.query_key_hadamard) model->key_hadamard = HadamardTable(config.head_size);
  if (parts.online.down_hadamard) {
    model->down_hadamard =
        HadamardTable(parts.online.down_block > 0 ? parts.online.down_block : config.inner);
  }
  const int64_t K = config.head_size;
  const int64_t bits = parts.bits.kv_cache.bits;
  const double clip = bits == 16 ? 1.0 : parts.grids.clips.cache;
  model->key_grid = dynamic_grid(bits, K, K, false, clip);
  model->value_grid = dynamic_grid(bits, K, K, true, clip);
  model->cache_bits = bits <= 4 ? 4 : bits <= 8 ? 8 : 16;
  return model;
}

std::unique_ptr<const RuntimeModel> make_runtime_model(const QuantizedParts& parts) {
  const ModelConfig& config = parts.config;
  std::unique_ptr<RuntimeModel> model = runtime_frame(parts);
  {
    // The part around the blocks comes first: its fp32 tables are given back before the
    // layers come.
    QuantizedWeights none;
    const ParameterStore store = parts.read(kOutsideBlocks, none);
    model->embedding = to_half(store.master(store.find(Role::embedding)), "the embedding");
    if (!config.tied) model->head = to_half(store.master(store.find(Role::head)), "the head");
    model->final_gain = gain_of(store, Role::final_norm, kNoLayer, config.width);
    if (config.logit_divisor != 1.0) {
      if (model->final_gain.empty()) model->final_gain.assign(static_cast<size_t>(config.width), 1);
      for (float& gain : model->final_gain) gain /= static_cast<float>(config.logit_divisor);
    }
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    leave_files_if_stopped("codes were packed");
    LayerBuilder(parts, layer).build(layer, model->layers[static_cast<size_t>(layer)]);
  }
  return model;
}

}  // namespace osp
