#include "osp/export/gguf_export.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json.h"
#include "osp/export/gguf_tokenizer.h"
#include "osp/export/lost_rows.h"
#include "osp/formats/gguf_writer.h"
#include "osp/formats/half.h"
#include "osp/model/gguf_names.h"
#include "osp/model/gguf_rope.h"
#include "osp/model/hf_config.h"

namespace osp {
namespace {

constexpr int64_t kBlock = 32;            // values of a block of Q4_0 and Q8_0
constexpr double kLargestHalf = 65519.0;  // larger ones round to infinity

// general.file_type, which only informs.
uint32_t file_type(GgufTensorType type) {
  return type == GgufTensorType::f16 ? 1 : type == GgufTensorType::q4_0 ? 2 : 7;
}

const QuantizedLinear* codes_of(const ParameterSpec& spec, const GgufExportOptions& options) {
  if (options.quantized == nullptr) return nullptr;
  const auto found = options.quantized->find(spec.name);
  return found == options.quantized->end() ? nullptr : &found->second;
}

GgufTensorType type_of(const ParameterSpec& spec, const GgufExportOptions& options) {
  if (spec.shape.size() < 2) return GgufTensorType::f32;
  if (codes_of(spec, options) != nullptr) return GgufTensorType::q4_0;
  const bool whole_blocks = spec.shape.back() % kBlock == 0;
  return options.type == GgufTensorType::q8_0 && whole_blocks ? GgufTensorType::q8_0
                                                              : GgufTensorType::f16;
}

// Row of ours for each row of the file.
std::vector<int64_t> rows_of(const ParameterSpec& spec, const ModelConfig& config) {
  const int64_t heads = gguf_permuted_heads(spec, config);
  if (heads > 0) return gguf_row_order(spec.shape[0], heads);
  std::vector<int64_t> rows(static_cast<size_t>(spec.shape[0]));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return rows;
}

// The largest magnitude in a row that the type makes zeros of; a row of Q8_0 has an fp16 scale of
// its largest magnitude / 127 or smaller ones.
double largest_lost(GgufTensorType type) {
  if (type == GgufTensorType::f16) return kLargestLostInHalf;
  return type == GgufTensorType::q8_0 ? 127 * kLargestLostInHalf : 0.0;
}

void check_codes(const QuantizedLinear& layer, const std::string& where, const std::string& name) {
  const auto refuse = [&](const std::string& reason) {
    fail(ErrorCode::unsupported,
         "{}: {} {}: Q4_0 holds symmetric codes from -8 to 7 with one scale for 32 weights", where,
         name, reason);
  };
  if (!layer.is_integer()) {
    refuse(fmt::format("holds {} numbers", number_kind_name(layer.kind)));
  }
  if (!layer.symmetric()) refuse("has zero points");
  if (layer.bits > 4) refuse(fmt::format("has {} bits", layer.bits));
  if (layer.columns() % kBlock != 0) refuse(fmt::format("has rows of {}", layer.columns()));
  if (layer.group % kBlock != 0) refuse(fmt::format("has groups of {}", layer.group));
}

void check_values(const at::Tensor& weight, bool half, const std::string& where,
                  const std::string& name) {
  const float* values = weight.const_data_ptr<float>();
  for (int64_t i = 0; i < weight.numel(); ++i) {
    if (!std::isfinite(values[i])) {
      fail(ErrorCode::damaged, "{}: {} holds {}, expected finite weights", where, name, values[i]);
    }
    if (half && std::fabs(values[i]) > kLargestHalf) {
      fail(ErrorCode::unsupported, "{}: {} holds {}, which fp16 cannot", where, name, values[i]);
    }
  }
}

// One row of codes as blocks: the scale in fp16, then 16 bytes with value i + 8 in the low half of
// byte i and value i + 16 in its high half.
void pack_q4_0(const int8_t* codes, const float* scales, int64_t columns, int64_t group,
               std::byte* out) {
  const int64_t width = group > 0 ? group : columns;
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const uint16_t scale = float_to_half(scales[begin / width]);
    std::memcpy(out, &scale, sizeof(scale));
    out += sizeof(scale);
    for (int64_t i = 0; i < kBlock / 2; ++i) {
      const int low = codes[begin + i] + 8, high = codes[begin + i + kBlock / 2] + 8;
      *out++ = static_cast<std::byte>(low | high << 4);
    }
  }
}

// The largest relative change of a scale by its rounding. Error(unsupported) if fp16 has no
// positive finite number for it.
double check_scales(const QuantizedLinear& layer, const std::string& where,
                    const std::string& name) {
  const at::Tensor scale = layer.scale.contiguous();
  const float* values = scale.const_data_ptr<float>();
  double largest = 0;
  for (int64_t i = 0; i < scale.numel(); ++i) {
    const float half = half_to_float(float_to_half(values[i]));
    if (!(half > 0) || !std::isfinite(half)) {
      fail(ErrorCode::unsupported,
           "{}: {} has the scale {}, which fp16 cannot hold; Q4_0 has no other: choose --dtype f16 "
           "or q8_0",
           where, name, values[i]);
    }
    largest = std::max(largest, std::fabs(double{half} - values[i]) / values[i]);
  }
  return largest;
}

std::function<void(std::span<std::byte>)> fill_codes(const QuantizedLinear& layer,
                                                     std::vector<int64_t> rows) {
  return [&layer, rows = std::move(rows)](std::span<std::byte> blocks) {
    const at::Tensor codes = layer.codes.contiguous(), scale = layer.scale.contiguous();
    const size_t row_bytes = blocks.size() / rows.size();
    for (size_t row = 0; row < rows.size(); ++row) {
      pack_q4_0(codes.const_data_ptr<int8_t>() + rows[row] * layer.columns(),
                scale.const_data_ptr<float>() + rows[row] * layer.groups(), layer.columns(),
                layer.group, blocks.data() + row * row_bytes);
    }
  };
}

std::function<void(std::span<std::byte>)> fill_values(const at::Tensor& weight, GgufTensorType type,
                                                      std::vector<int64_t> rows) {
  return [weight, type, rows = std::move(rows)](std::span<std::byte> blocks) {
    const size_t row_bytes = blocks.size() / rows.size();
    const auto columns = static_cast<size_t>(weight.numel()) / rows.size();
    for (size_t row = 0; row < rows.size(); ++row) {
      const float* values =
          weight.const_data_ptr<float>() + static_cast<size_t>(rows[row]) * columns;
      gguf_quantize(type, {values, columns}, blocks.subspan(row * row_bytes, row_bytes));
    }
  };
}

void add_model_metadata(const ModelConfig& config, const GgufExportOptions& options,
                        GgufMetadataWriter& metadata) {
  const GgufArchitecture& architecture = *gguf_architecture_of(config);
  const auto full = [&](const char* key) { return fmt::format("{}.{}", architecture.name, key); };
  const auto u32 = [&](const char* key, int64_t value) {
    metadata.u32(full(key), static_cast<uint32_t>(value));
  };
  metadata.text("general.architecture", std::string(architecture.name));
  metadata.text("general.type", "model");
  if (!options.name.empty()) metadata.text("general.name", options.name);
  metadata.u32("general.file_type", file_type(options.type));
  metadata.u32("general.quantization_version", 2);
  u32("block_count", config.layers);
  u32("context_length", config.context);
  u32("embedding_length", config.width);
  u32("feed_forward_length", config.inner);
  u32("attention.head_count", config.heads);
  u32("attention.head_count_kv", config.kv_heads);
  u32("attention.key_length", config.head_size);
  u32("attention.value_length", config.head_size);
  u32("rope.dimension_count", config.head_size);
  u32("vocab_size", config.vocabulary);
  metadata.f32(full("rope.freq_base"), static_cast<float>(config.rope_theta));
  metadata.f32(full("attention.layer_norm_rms_epsilon"), static_cast<float>(config.norm_eps));
}

// The first thing in which a model is no Llama.
std::string difference_from_llama(const ModelConfig& config) {
  if (config.norm != "rms") return fmt::format("has norms of the kind {}", config.norm);
  if (config.embedding_projection) return "has projections around the embedding";
  if (config.embedding_norm) return "has a norm of the embedding";
  if (config.branch_scale) return "has scales of its branches";
  if (config.has_experts()) return "has experts";
  if (config.qk_norm) return "has norms of queries and keys";
  if (config.norm_after || config.norm_around) return "has norms behind its branches";
  if (config.parallel) return "has parallel branches";
  if (config.qkv_bias != config.output_bias) return "has biases on a part of its projections";
  if (!config.gated || config.activation != "silu") return "has no gated SiLU";
  if (config.clip_qkv > 0) return "clamps queries, keys and values";
  if (config.learned_positions) return "has learned positions";
  const bool whole = config.rotary_size == 0 || config.rotary_size == config.head_size;
  if (!whole) return "rotates a part of each head";
  if (!config.unrotated_layers.empty()) return "has layers without the rotary embedding";
  if (config.window > 0) return fmt::format("has a sliding window of {}", config.window);
  if (config.embedding_multiplier != 1 || config.residual_multiplier != 1 ||
      config.attention_multiplier != 0 || config.logit_divisor != 1) {
    return "has constant factors of its embedding, branches or logits";
  }
  if (config.attention_softcap > 0 || config.logit_softcap > 0) return "caps its logits";
  if (config.rope_scaling.query_growth > 0) return "has queries that grow with the position";
  return fmt::format("is a {}", config.family);
}

// Why no file of osp's architectures says what the model computes; "" if one does.
std::string refusal(const ModelConfig& config) {
  const GgufArchitecture* architecture = gguf_architecture_of(config);
  if (architecture == nullptr || !architecture->written) return difference_from_llama(config);
  if (config.window > 0) return fmt::format("has a sliding window of {}", config.window);
  if (config.family.empty() && !is_plain_llama(config)) return difference_from_llama(config);
  if (!config.family.empty() && architecture_name(config) != config.family) {
    return fmt::format("is not all that a {} is", config.family);
  }
  if (config.activation != "silu") return fmt::format("has {} for SiLU", config.activation);
  if (architecture->name != "llama" && (config.output_bias || config.mlp_bias)) {
    return "has biases that its files cannot hold";
  }
  const bool divisors = architecture->name != "olmo2";
  if (!divisors && config.rope_scaling.type != "default") return "has a scaled rotary embedding";
  if (architecture->name != "smollm3") return "";
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.rotates(layer) == ((layer + 1) % kGgufUnrotatedInterval == 0)) {
      return fmt::format("does not leave out the rotary embedding in every {}th layer",
                         kGgufUnrotatedInterval);
    }
  }
  return "";
}

// What llama.cpp divides the rotary embedding's frequencies by.
GgufTensorEntry rope_divisors(const ModelConfig& config) {
  const std::vector<double> exact =
      llama3_divisors(config.rope_theta, config.head_size, config.rope_scaling.factor);
  return {"rope_freqs.weight",
          GgufTensorType::f32,
          {static_cast<int64_t>(exact.size())},
          [divisors = std::vector<float>(exact.begin(), exact.end())](std::span<std::byte> out) {
            gguf_quantize(GgufTensorType::f32, divisors, out);
          }};
}

}  // namespace

void check_gguf_export(const ParameterStore& store, const GgufExportOptions& options) {
  // The architecture.
  if (const std::string reason = refusal(store.config); !reason.empty()) {
    fail(
        ErrorCode::unsupported,
        "{}: osp writes GGUF files for llama.cpp's {}, and this model {}; export with --format hf, "
        "for llama.cpp's own converter",
        options.where, gguf_architectures(/*written=*/true), reason);
  }
  // Features that the file could not carry.
  const RopeScaling& rope = store.config.rope_scaling;
  if (rope.type != "default" && !has_llama3_divisors(rope)) {
    fail(ErrorCode::unsupported,
         "{}: the rotary embedding is scaled ({}) in a way that osp does not write as GGUF",
         options.where, rope.type);
  }
  if (options.online.down_hadamard) {
    fail(
        ErrorCode::unsupported,
        "{}: the model needs a Hadamard transform before each down projection while it runs, which "
        "no GGUF file can ask for; quantize by a method without it, such as gptq, to export",
        options.where);
  }
  OSP_CHECK((options.type == GgufTensorType::q4_0) == (options.quantized != nullptr),
            "q4_0 and codes go together");
  // Every tensor has a name there and values that its type holds.
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    OSP_CHECK(!gguf_tensor_name(spec, store.config).empty(), "{} has no name in a GGUF file",
              spec.name);
    if (const QuantizedLinear* layer = codes_of(spec, options)) {
      check_codes(*layer, options.where, spec.name);
    } else {
      check_values(store.master(static_cast<int64_t>(i)),
                   type_of(spec, options) != GgufTensorType::f32, options.where, spec.name);
    }
  }
}

GgufExportReport export_gguf(const ParameterStore& store, const std::string& path,
                             const GgufExportOptions& options) {
  check_gguf_export(store, options);
  // Metadata: sizes and tokenizer.
  GgufMetadataWriter metadata;
  add_model_metadata(store.config, options, metadata);
  if (!options.tokenizer_json.empty()) {
    add_gguf_tokenizer(options.tokenizer_json, store.config.vocabulary, options.end_tokens,
                       options.where, metadata);
    if (!options.chat_template.empty()) {
      metadata.text("tokenizer.chat_template", options.chat_template);
    }
  }
  // Tensors, which are packed while the file is written.
  GgufExportReport report;
  report.end_tokens_lost =
      std::max<int64_t>(0, static_cast<int64_t>(options.end_tokens.size()) - kGgufEndTokens);
  std::vector<GgufTensorEntry> entries;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    GgufTensorEntry entry{
        gguf_tensor_name(spec, store.config), type_of(spec, options), spec.shape, {}};
    if (const QuantizedLinear* layer = codes_of(spec, options)) {
      report.scale_rounding =
          std::max(report.scale_rounding, check_scales(*layer, options.where, spec.name));
      entry.fill = fill_codes(*layer, rows_of(spec, store.config));
    } else {
      if (options.type == GgufTensorType::q8_0 && entry.type == GgufTensorType::f16) {
        report.kept_f16.push_back(spec.name);
      }
      std::string lost = lost_rows_text(spec.name, store.master(static_cast<int64_t>(i)),
                                        largest_lost(entry.type));
      if (!lost.empty()) report.lost_rows.push_back(std::move(lost));
      const bool in_rows = spec.shape.size() > 1 || gguf_permuted_heads(spec, store.config) > 0;
      std::vector<int64_t> rows = in_rows ? rows_of(spec, store.config) : std::vector<int64_t>{0};
      entry.fill = fill_values(store.master(static_cast<int64_t>(i)), entry.type, std::move(rows));
    }
    entries.push_back(std::move(entry));
  }
  if (store.config.rope_scaling.type != "default") entries.push_back(rope_divisors(store.config));
  write_file_atomic(
      path, [&](const std::string& temporary) { write_gguf(temporary, metadata, entries); });
  return report;
}

}  // namespace osp
