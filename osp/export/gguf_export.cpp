#include "osp/export/gguf_export.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json.h"
#include "osp/export/gguf_codes.h"
#include "osp/export/gguf_model_keys.h"
#include "osp/export/gguf_tokenizer.h"
#include "osp/export/lost_rows.h"
#include "osp/formats/gguf_quantize.h"
#include "osp/formats/gguf_split.h"
#include "osp/formats/gguf_writer.h"
#include "osp/model/gguf_names.h"
#include "osp/model/hf_config.h"
#include "osp/ops/parallel.h"
#include "osp/quant/tables.h"

namespace osp {
namespace {

constexpr double kLargestHalf = 65519.0;  // larger ones round to infinity

// general.file_type, which only informs.
uint32_t file_type(GgufTensorType type) {
  switch (type) {
    case GgufTensorType::f32:
      return 0;
    case GgufTensorType::f16:
      return 1;
    case GgufTensorType::q4_0:
      return 2;
    case GgufTensorType::q4_1:
      return 3;
    case GgufTensorType::q8_0:
      return 7;
    case GgufTensorType::q5_0:
      return 8;
    case GgufTensorType::q5_1:
      return 9;
    case GgufTensorType::q4_k:
      return 14;
    case GgufTensorType::q6_k:
      return 18;
    case GgufTensorType::bf16:
      return 32;
    case GgufTensorType::mxfp4:
      return 38;
    default:
      return 1024;  // not said
  }
}

bool keeps_numbers(const ParameterSpec& spec, const GgufExportOptions& options) {
  return options.keep_numbers && options.quantized != nullptr && !is_table(spec) &&
         !options.quantized->contains(spec.name);
}

// The type that the options ask for.
GgufTensorType wanted_type(const ParameterSpec& spec, const GgufExportOptions& options) {
  if (!is_table(spec)) return keeps_numbers(spec, options) ? GgufTensorType::f16 : options.type;
  if (options.tables) return *options.tables;
  return options.quantized != nullptr ? GgufTensorType::f16 : options.type;
}

// The codes of a layer, whether or not they fit; null if it has none or the type is one of numbers.
const QuantizedLinear* any_codes_of(const ParameterSpec& spec, const GgufExportOptions& options) {
  if (options.quantized == nullptr || gguf_type_info(wanted_type(spec, options)).block_size == 1) {
    return nullptr;
  }
  const auto found = options.quantized->find(spec.name);
  return found == options.quantized->end() ? nullptr : &found->second;
}

// Why the codes of a layer are not written as they are: a half-sentence behind the layer's name.
// Empty if they are.
std::string why_not_codes(const ParameterSpec& spec, const QuantizedLinear& layer,
                          const GgufExportOptions& options) {
  if (options.online.down_hadamard && spec.role == ParameterRole::down) {
    return "has codes behind a Hadamard transform, which no GGUF file can ask for";
  }
  return why_codes_do_not_fit(layer, wanted_type(spec, options));
}

// The codes that are written.
const QuantizedLinear* codes_of(const ParameterSpec& spec, const GgufExportOptions& options) {
  const QuantizedLinear* const layer = any_codes_of(spec, options);
  return layer != nullptr && why_not_codes(spec, *layer, options).empty() ? layer : nullptr;
}

GgufTensorType type_of(const ParameterSpec& spec, const GgufExportOptions& options) {
  // The router in F32, as llama.cpp's converter has it.
  if (spec.shape.size() < 2 || spec.kind == ParameterKind::router) return GgufTensorType::f32;
  return gguf_type_for_rows(wanted_type(spec, options), spec.shape.back());
}

// Row of ours for each row of the file.
std::vector<int64_t> rows_of(const ParameterSpec& spec, const ModelConfig& config) {
  const int64_t heads = gguf_permuted_heads(spec, config);
  if (heads > 0) return gguf_row_order(spec.shape[0], heads, config.rotary_size);
  if (spec.shape.size() < 2) return {0};  // all of it
  std::vector<int64_t> rows(static_cast<size_t>(spec.shape[0]));
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  return rows;
}

// The largest magnitude in a row that the type makes zeros of, where that follows from the scale of
// a block alone; a row of Q8_0 has an fp16 scale of its largest magnitude / 127 or smaller ones.
double largest_lost(GgufTensorType type) {
  if (type == GgufTensorType::f16) return kLargestLostInHalf;
  return type == GgufTensorType::q8_0 ? 127 * kLargestLostInHalf : 0.0;
}

void check_codes(const QuantizedLinear& layer, GgufTensorType type, const std::string& where,
                 const std::string& name) {
  const std::string reason = why_codes_do_not_fit(layer, type);
  if (reason.empty()) return;
  fail(ErrorCode::unsupported,
       "{}: {} {}, and {} holds {} with one scale for 32 weights; --dtype q8_0 (or another type by "
       "its name) rounds the weights once more",
       where, name, reason, gguf_type_info(type).name,
       type == GgufTensorType::mxfp4 ? "MXFP4 numbers" : "integers of its width");
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

// Rows of codes, or of numbers: each with the row of ours for each row of the file.
std::function<void(std::span<std::byte>)> fill_codes(const QuantizedLinear& layer,
                                                     GgufTensorType type,
                                                     std::vector<int64_t> rows) {
  return [&layer, type, rows = std::move(rows)](std::span<std::byte> blocks) {
    pack_gguf_codes(layer, type, rows, blocks);
  };
}

std::function<void(std::span<std::byte>)> fill_values(const at::Tensor& weight, GgufTensorType type,
                                                      std::vector<int64_t> rows) {
  return [weight, type, rows = std::move(rows)](std::span<std::byte> blocks) {
    const size_t row_bytes = blocks.size() / rows.size();
    const auto columns = static_cast<size_t>(weight.numel()) / rows.size();
    const float* const all = weight.const_data_ptr<float>();
    for_each_task(static_cast<int64_t>(rows.size()), [&](int64_t task) {
      const auto row = static_cast<size_t>(task);
      const float* const values = all + static_cast<size_t>(rows[row]) * columns;
      gguf_quantize(type, {values, columns}, blocks.subspan(row * row_bytes, row_bytes));
    });
  };
}

// A part of a tensor: its rows, and what writes them.
struct Fill {
  int64_t rows;
  std::function<void(std::span<std::byte>)> fill;
};

// The parts one behind the other.
std::function<void(std::span<std::byte>)> filled_by(std::vector<Fill> parts) {
  return [parts = std::move(parts)](std::span<std::byte> blocks) {
    int64_t rows = 0;
    for (const Fill& part : parts) rows += part.rows;
    const size_t row_bytes = blocks.size() / static_cast<size_t>(rows);
    for (const Fill& part : parts) {
      const size_t size = static_cast<size_t>(part.rows) * row_bytes;
      part.fill(blocks.first(size));
      blocks = blocks.subspan(size);
    }
  };
}

// The largest relative change of a scale. Error(unsupported) if fp16 cannot hold one.
double checked_rounding(const QuantizedLinear& layer, GgufTensorType type, const std::string& where,
                        const std::string& name) {
  const std::optional<double> rounding = gguf_scale_rounding(layer, type);
  if (rounding) return *rounding;
  fail(ErrorCode::unsupported,
       "{}: {} has a scale that fp16 cannot hold; {} has no other: choose --dtype f16 or bf16",
       where, name, gguf_type_info(type).name);
}

// Adds to the report what became of a tensor that is written from its numbers.
void note_type(const ParameterSpec& spec, GgufTensorType type, const GgufExportOptions& options,
               GgufExportReport& report) {
  if (spec.shape.size() < 2 || spec.kind == ParameterKind::router) return;
  const GgufTensorType wanted = wanted_type(spec, options);
  if (spec.kind == ParameterKind::matrix && keeps_numbers(spec, options)) {
    report.plain_layers.push_back(spec.name);
  }
  if (type == GgufTensorType::f16 && wanted != type) {
    report.kept_f16.push_back(spec.name);
  } else if (type != wanted) {
    report.substituted.push_back(fmt::format("{} as {}", spec.name, gguf_type_info(type).name));
  }
  if (const QuantizedLinear* layer = any_codes_of(spec, options)) {
    report.rounded_again.push_back(spec.name + " " + why_not_codes(spec, *layer, options));
  }
}

}  // namespace

void check_gguf_export(const ParameterStore& store, const GgufExportOptions& options) {
  // The architecture.
  if (const std::string reason = why_no_gguf(store.config); !reason.empty()) {
    fail(
        ErrorCode::unsupported,
        "{}: osp writes GGUF files for llama.cpp's {}, and this model {}; export with --format hf, "
        "for llama.cpp's own converter",
        options.where, gguf_architectures(), reason);
  }
  // Features that the file could not carry.
  if (options.exact && options.online.down_hadamard) {
    fail(
        ErrorCode::unsupported,
        "{}: the model needs a Hadamard transform before each down projection while it runs, which "
        "no GGUF file can ask for; quantize by a method without it, such as gptq, or name a "
        "--dtype, "
        "which takes those layers as numbers",
        options.where);
  }
  // Every tensor has values that its type holds.
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    const QuantizedLinear* const layer = any_codes_of(spec, options);
    if (layer != nullptr && options.exact && !is_table(spec)) {
      check_codes(*layer, wanted_type(spec, options), options.where, spec.name);
    }
    if (codes_of(spec, options) != nullptr) continue;
    const GgufTensorType type = type_of(spec, options);
    if (type == GgufTensorType::mxfp4) {
      fail(ErrorCode::unsupported,
           "{}: {} {}, and MXFP4 is written from codes alone; choose another --dtype",
           options.where, spec.name,
           layer == nullptr ? "has no codes" : why_not_codes(spec, *layer, options));
    }
    const bool wide = type == GgufTensorType::f32 || type == GgufTensorType::bf16;
    check_values(store.master(static_cast<int64_t>(i)), !wide, options.where, spec.name);
  }
}

GgufTensorType gguf_type_for_rows(GgufTensorType type, int64_t columns) {
  if (columns % gguf_type_info(type).block_size == 0) return type;
  if (type == GgufTensorType::q4_k) return gguf_type_for_rows(GgufTensorType::q5_0, columns);
  if (type == GgufTensorType::q6_k) return gguf_type_for_rows(GgufTensorType::q8_0, columns);
  return GgufTensorType::f16;
}

GgufExportReport export_gguf(const ParameterStore& store, const std::string& path,
                             const GgufExportOptions& options) {
  check_gguf_export(store, options);
  // Metadata: sizes and tokenizer.
  GgufExportReport report;
  GgufMetadataWriter metadata;
  add_model_metadata(store.config, file_type(options.type), options.name, metadata);
  report.differences = gguf_model_differences(store.config);
  if (!options.rounded_before.empty()) {
    metadata.text(kGgufRoundedBeforeKey, options.rounded_before);
  }
  if (!options.tokenizer_json.empty()) {
    report.tokenizer_warnings = add_gguf_tokenizer(options.tokenizer_json, store.config.vocabulary,
                                                   options.end_tokens, options.where, metadata);
    if (!options.chat_template.empty()) {
      metadata.text("tokenizer.chat_template", options.chat_template);
    }
  }
  // Tensors, which are packed while the file is written.
  report.end_tokens_lost =
      std::max<int64_t>(0, static_cast<int64_t>(options.end_tokens.size()) - kGgufEndTokens);
  std::vector<GgufTensorEntry> entries;
  for (const GgufStoredTensor& stored : gguf_stored_tensors(store.specs, store.config)) {
    const ParameterSpec& first = store.specs[static_cast<size_t>(stored.parameters[0])];
    GgufTensorEntry entry{stored.name, type_of(first, options), stored.shape, {}};
    std::vector<Fill> parts;
    for (const int64_t parameter : stored.parameters) {
      const ParameterSpec& spec = store.specs[static_cast<size_t>(parameter)];
      const int64_t rows = spec.shape[0];
      OSP_CHECK(type_of(spec, options) == entry.type, "{}: parts of two types", stored.name);
      if (const QuantizedLinear* layer = codes_of(spec, options)) {
        ++report.layers_of_codes;
        report.scale_rounding = std::max(
            report.scale_rounding, checked_rounding(*layer, entry.type, options.where, spec.name));
        parts.push_back({rows, fill_codes(*layer, entry.type, rows_of(spec, store.config))});
        continue;
      }
      const at::Tensor weight = store.master(parameter);
      note_type(spec, entry.type, options, report);
      std::string lost = lost_rows_text(spec.name, weight, largest_lost(entry.type));
      if (!lost.empty()) report.lost_rows.push_back(std::move(lost));
      parts.push_back({rows, fill_values(weight, entry.type, rows_of(spec, store.config))});
    }
    entry.fill = filled_by(std::move(parts));
    entries.push_back(std::move(entry));
  }
  for (GgufTensorEntry& entry : gguf_rope_tensors(store.config))
    entries.push_back(std::move(entry));
  report.files = write_gguf_parts(path, metadata, entries, options.split_bytes);
  return report;
}

}  // namespace osp
