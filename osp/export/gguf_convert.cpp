#include "osp/export/gguf_convert.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/export/coded_model.h"
#include "osp/export/gguf_codes.h"
#include "osp/export/gguf_model_keys.h"
#include "osp/formats/gguf_quantize.h"
#include "osp/formats/gguf_split.h"
#include "osp/model/fuse.h"
#include "osp/model/gguf_names.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/quantized_model_tensors.h"
#include "osp/quant/float_grid.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

GgufTensorType type_of(const std::string& name, const char* option) {
  const std::optional<GgufTensorType> type = gguf_written_type(name);
  if (!type) {
    fail(ErrorCode::usage, "{} {}: a GGUF file is written in {}", option, name,
         "fp32, bf16, f16, q8_0, q5_0, q5_1, q4_0, q4_1, q6_k, q4_k or mxfp4");
  }
  return *type;
}

std::string name_of(GgufTensorType type) {
  if (type == GgufTensorType::f32) return "fp32";
  std::string name(gguf_type_info(type).name);
  std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name;
}

// The type that holds the codes of a quantized model; Error(unsupported) if none does.
GgufTensorType type_of_codes(const QuantizedModel& model, const std::string& dir) {
  const WeightGrid& grid = model.info.grid;
  const auto type = gguf_type_of_codes(grid.kind, grid.bits, grid.symmetric);
  if (type) return *type;
  fail(ErrorCode::unsupported,
       "{}: no type of GGUF holds {} weights{} as they are; --dtype q8_0 (or another type by its "
       "name) rounds them once more",
       dir, model.info.bits.weights.text(), grid.symmetric ? "" : " with zero points");
}

// The model's name in the file: the last part of its path that is not "model", without the end of a
// GGUF file's name. What stands behind another dot belongs to it ("Qwen2.5-0.5B").
std::string title_of(const std::string& dir) {
  std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  if (!path.has_filename() || path.filename() == "model") path = path.parent_path();
  return gguf_model_name(path.filename().string());
}

// The tokenizer, the chat template and the tokens that end a text.
void add_tokenizer(const std::string& dir, GgufExportOptions& options, GgufConversion& result) {
  result.has_tokenizer = Tokenizer::exists(dir);
  if (!result.has_tokenizer) return;
  const Tokenizer tokenizer = Tokenizer::from_file(dir);
  options.tokenizer_json = tokenizer.json();
  options.chat_template = load_chat_template(dir);
  options.end_tokens = load_end_tokens(dir);
  if (options.end_tokens.empty() && tokenizer.end_of_document() >= 0) {
    options.end_tokens.push_back(tokenizer.end_of_document());
  }
}

// The codes of a folder of MXFP4 weights, found again from the numbers: the layers of which all are
// numbers of that format.
QuantizedWeights mxfp4_codes(const ParameterStore& store) {
  QuantizedWeights codes;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    if (spec.kind != ParameterKind::matrix || spec.shape[1] % block_size(NumberKind::mxfp4) != 0) {
      continue;
    }
    const at::Tensor weight = store.master(static_cast<int64_t>(i));
    QuantizedLinear layer =
        round_to_nearest(weight, float_weight_grid(NumberKind::mxfp4), spec.name);
    if (layer.dequantized().equal(weight)) codes[spec.name] = std::move(layer);
  }
  return codes;
}

// The integers of a folder by parameter, if all are such that `wanted` holds them; else none.
QuantizedWeights integer_codes(const CodedModel& model, GgufTensorType wanted) {
  QuantizedWeights codes;
  bool all_fit = true;
  model.each([&](const CodedTensor& tensor) {
    if (tensor.layer == nullptr) return;
    all_fit = all_fit && !tensor.column_group.defined() &&
              why_codes_do_not_fit(*tensor.layer, wanted).empty();
    const std::vector<QuantizedLinear> parts =
        split_layer(model.config(), tensor.stored, *tensor.layer);
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto parameter = static_cast<size_t>(tensor.stored.parameters[i]);
      codes[tensor.part.specs[parameter].name] = parts[i];
    }
  });
  return all_fit ? codes : QuantizedWeights();
}

// A tensor of the file has one type. Codes of a part of one, such as of some experts of a block,
// are left out: all of it is written by its numbers.
void leave_out_parts(const ParameterStore& store, QuantizedWeights& codes) {
  if (!why_no_gguf(store.config).empty()) return;  // export_gguf() says so
  for (const GgufStoredTensor& stored : gguf_stored_tensors(store.specs, store.config)) {
    const auto name_of_part = [&](int64_t i) { return store.specs[static_cast<size_t>(i)].name; };
    const auto is_coded = [&](int64_t i) { return codes.contains(name_of_part(i)); };
    if (std::ranges::all_of(stored.parameters, is_coded)) continue;
    for (const int64_t i : stored.parameters) codes.erase(name_of_part(i));
  }
}

// Writes a folder whose codes another program made from them, where the type that is asked for
// holds them; false if it does not, or none was asked for that does: the numbers are left.
bool export_foreign_codes(const std::string& dir, const std::string& path, const std::string& dtype,
                          GgufExportOptions& options, GgufConversion& result) {
  const std::optional<PackedLayout> layout = foreign_layout(dir);
  if (!layout) return false;
  const bool mxfp4 = layout->kind == PackedKind::mxfp4 || layout->kind == PackedKind::mxfp4_experts;
  std::unique_ptr<CodedModel> model;
  std::optional<GgufTensorType> type = GgufTensorType::mxfp4;
  if (!mxfp4) {
    try {
      model = open_coded_model(dir);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unsupported) throw;
      return false;
    }
    const WeightGrid& grid = model->info().grid;
    type = gguf_type_of_codes(grid.kind, grid.bits, grid.symmetric);
  }
  const GgufTensorType wanted = dtype == "auto" && type ? *type : options.type;
  if (gguf_type_info(wanted).block_size == 1 || (mxfp4 && wanted != *type)) return false;
  const ParameterStore store = load_model_dir(dir);
  QuantizedWeights codes = mxfp4 ? mxfp4_codes(store) : integer_codes(*model, wanted);
  leave_out_parts(store, codes);
  if (codes.empty()) return false;
  options.type = wanted;
  options.exact = true;
  options.keep_numbers = dtype == "auto";
  options.quantized = &codes;
  result.parameters = store.num_parameters();
  result.dtype = name_of(options.type);
  result.tables = name_of(options.tables.value_or(GgufTensorType::f16));
  result.report = export_gguf(store, path, options);
  options.quantized = nullptr;
  return true;
}

}  // namespace

GgufConversion convert_to_gguf(const std::string& model, const std::string& path,
                               const std::string& dtype, const std::string& tables,
                               uint64_t split_bytes) {
  const std::string dir = find_model_dir(model);
  GgufConversion result;
  GgufExportOptions options;
  options.where = dir;
  options.name = title_of(dir);
  options.split_bytes = split_bytes;
  const bool automatic = dtype == "auto";
  if (!automatic) options.type = type_of(dtype, "--dtype");
  if (tables != "auto") options.tables = type_of(tables, "--tables");
  if (options.tables == GgufTensorType::mxfp4) {
    fail(ErrorCode::usage, "--tables mxfp4: it holds the weights of a model quantized to mxfp4");
  }
  add_tokenizer(dir, options, result);
  // A model without codes: the fused weights, rounded.
  if (!is_quantized_model_dir(dir)) {
    if (export_foreign_codes(dir, path, dtype, options, result)) return result;
    if (options.type == GgufTensorType::mxfp4) {
      fail(ErrorCode::usage,
           "{}: --dtype mxfp4 takes the codes of a model quantized to mxfp4; choose another type",
           dir);
    }
    options.rounded_before = rounded_before(dir);
    const ParameterStore store = fuse(load_model_dir(dir));
    result.parameters = store.num_parameters();
    result.dtype = name_of(options.type);
    result.tables = name_of(options.tables.value_or(options.type));
    result.report = export_gguf(store, path, options);
    return result;
  }
  // A quantized one: its codes, and where they do not fit the numbers that they stand for.
  const QuantizedModel source = load_quantized_model_dir(dir);
  result.parameters = source.store.num_parameters();
  QuantizedWeights codes = source.weights;
  codes.insert(source.tables.begin(), source.tables.end());
  options.online = source.info.online;
  if (automatic) {
    options.type = type_of_codes(source, dir);
  } else if (options.type == GgufTensorType::mxfp4 && source.info.grid.kind != NumberKind::mxfp4) {
    fail(ErrorCode::usage, "{}: --dtype mxfp4 takes mxfp4 weights, and these are {}", dir,
         source.info.bits.weights.text());
  }
  options.exact = automatic;
  options.quantized = &codes;
  options.rounded_before = automatic ? source.info.rounded_before : quantization_text(source.info);
  if (!options.tables) {
    options.tables = source.info.tables == TableType::int8   ? GgufTensorType::q8_0
                     : source.info.tables == TableType::int4 ? GgufTensorType::q4_0
                                                             : GgufTensorType::f16;
  }
  result.dtype = name_of(options.type);
  result.tables = name_of(*options.tables);
  result.report = export_gguf(automatic ? source.store : source.plain_store(), path, options);
  return result;
}

}  // namespace osp
