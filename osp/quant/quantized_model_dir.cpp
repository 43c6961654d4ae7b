#include "osp/quant/quantized_model_dir.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <fmt/ranges.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/data/tokenizer.h"
#include "osp/formats/safetensors.h"
#include "osp/model/hf_config.h"
#include "osp/model/model_dir.h"
#include "osp/quant/quantize_block.h"
#include "osp/quant/quantized_model_tensors.h"

namespace osp {
namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kInfoKey = "osp_quantization";
constexpr size_t kMaxConfigBytes = 1 << 20;

// Files of a model dir that are copied as they are.
constexpr const char* kTokenizerFiles[] = {"tokenizer.json", "tokenizer_config.json",
                                           "special_tokens_map.json", "generation_config.json"};

// input_scale and input_zero_point of the layers that have a static scale, as compressed-tensors
// wants them beside the weight.
void add_static_scales(TensorBuffers& buffers, const ParameterStore& store,
                       const QuantizedModelInfo& info) {
  const double shift = std::ldexp(1.0, static_cast<int>(info.bits.activations) - 1);
  for (const auto& [place, scale] : info.scales) {
    for (const LinearGroup& group : linear_groups(store, place.second)) {
      if (group.input != place.first) continue;
      for (const int64_t parameter : group.parameters) {
        const std::string& weight = store.specs[static_cast<size_t>(parameter)].name;
        const std::string layer = weight.substr(0, weight.rfind('.'));
        buffers.add(layer + ".input_scale", "F32", at::full({1}, scale.scale, at::kFloat));
        buffers.add(layer + ".input_zero_point", "I8",
                    at::full({1}, scale.zero - shift, at::kChar));
      }
    }
  }
}

TensorBuffers all_tensors(const ParameterStore& store, const QuantizedWeights& weights,
                          const QuantizedModelInfo& info) {
  TensorBuffers buffers;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const std::string& name = store.specs[i].name;
    const auto quantized = weights.find(name);
    if (quantized != weights.end()) {
      add_quantized(buffers, name, quantized->second);
    } else {
      buffers.add(name, "F32", store.master(static_cast<int64_t>(i)));
    }
  }
  add_static_scales(buffers, store, info);
  return buffers;
}

Json config_with_quantization(const ParameterStore& store, const QuantizedModelInfo& info,
                              const std::string& source_dir) {
  int64_t end_token = -1;
  if (path_exists(source_dir + "/config.json")) {
    const std::vector<int64_t> ends = load_model_config(source_dir).end_tokens;
    if (!ends.empty()) end_token = ends.front();
  }
  Json config = parse_json(model_config_json(store.config, "float32", end_token), "config.json");
  config["quantization_config"] = compressed_tensors_config(info, store.config);
  config[kInfoKey] = quantization_info_json(info);
  return config;
}

void copy_plain(const TensorView& view, at::Tensor out, const std::string& where) {
  at::ScalarType type = at::kFloat;
  if (view.dtype == "BF16") {
    type = at::kBFloat16;
  } else if (view.dtype == "F16") {
    type = at::kHalf;
  } else if (view.dtype != "F32") {
    fail(ErrorCode::unsupported, "{} has type {}; osp reads F32, BF16 and F16", where, view.dtype);
  }
  at::Tensor raw = at::empty(out.sizes(), at::TensorOptions().dtype(type));
  std::memcpy(raw.mutable_data_ptr(), view.data.data(), view.data.size());
  out.copy_(raw);
}

}  // namespace

std::unique_ptr<FakeQuantTap> QuantizedModel::make_tap() const {
  return std::make_unique<FakeQuantTap>(
      store, BitWidths{16, info.bits.activations, info.bits.kv_cache}, info.online, info.scales);
}

void check_output_dir(const std::string& path) {
  if (!path_exists(path)) return;
  if (is_directory(path) && std::filesystem::is_empty(path)) return;
  fail(ErrorCode::usage, "{}: exists already; remove it or choose another --out", path);
}

void save_quantized_model_dir(const ParameterStore& store, const QuantizedWeights& weights,
                              const QuantizedModelInfo& info, const Json& report,
                              const std::string& source_dir, const std::string& path) {
  check_output_dir(path);
  const std::string temporary = path + ".tmp";
  remove_tree(temporary);
  make_directories(temporary);
  const TensorBuffers buffers = all_tensors(store, weights, info);
  write_safetensors(temporary + "/" + kWeights, buffers.entries, {{"format", "pt"}});
  for (const char* name : kTokenizerFiles) {
    const std::string from = source_dir + "/" + name;
    if (path_exists(from)) write_file_atomic(temporary + "/" + name, read_file(from));
  }
  const std::string tokenizer = temporary + "/" + kTokenizerFiles[0];
  if (!path_exists(tokenizer) && Tokenizer::exists(source_dir)) {  // inside a GGUF file
    write_file_atomic(tokenizer, Tokenizer::from_file(source_dir).json());
  }
  write_file_atomic(temporary + "/quantize.json", report.dump(2) + "\n");
  write_file_atomic(temporary + "/config.json",
                    config_with_quantization(store, info, source_dir).dump(2) + "\n");
  fsync_directory(temporary);
  rename_path(temporary, path);
}

bool is_quantized_model_dir(const std::string& path) {
  const std::string file = path + "/config.json";
  if (!path_exists(file)) return false;
  const Json config = read_json_file(file, kMaxConfigBytes);
  return config.is_object() && config.contains(kInfoKey);
}

QuantizedModel load_quantized_model_dir(const std::string& path) {
  const std::string file = path + "/config.json", weights_file = path + "/" + kWeights;
  Json config = read_json_file(file, kMaxConfigBytes);
  if (!config.is_object() || !config.contains(kInfoKey)) {
    fail(ErrorCode::damaged, "{}: no key {}", file, kInfoKey);
  }
  QuantizedModel model;
  model.info = parse_quantization_info(config[kInfoKey], file);
  config.erase("quantization_config");
  config.erase(kInfoKey);
  const ModelConfig shape = parse_hf_config(config, file).model;
  const SafetensorsFile tensors = SafetensorsFile::open(weights_file);
  // Names and shapes before anything is allocated from the numbers of config.json.
  for (const ParameterSpec& spec : parameter_specs(shape)) {
    const auto plain = tensors.tensors().find(spec.name);
    if (plain == tensors.tensors().end() && !tensors.tensors().contains(spec.name + "_packed")) {
      fail(ErrorCode::damaged, "{}: tensor {} is missing", weights_file, spec.name);
    }
    if (plain != tensors.tensors().end() && plain->second.shape != spec.shape) {
      fail(ErrorCode::damaged, "{}: tensor {} has shape [{}], expected [{}] by config.json",
           weights_file, spec.name, fmt::join(plain->second.shape, ", "),
           fmt::join(spec.shape, ", "));
    }
  }
  model.store = make_parameters(shape, {});
  std::set<std::string> taken;
  for (size_t i = 0; i < model.store.specs.size(); ++i) {
    const ParameterSpec& spec = model.store.specs[i];
    at::Tensor master = model.store.master(static_cast<int64_t>(i));
    if (tensors.tensors().contains(spec.name)) {
      copy_plain(tensors.at(spec.name), master, weights_file + ": tensor " + spec.name);
      continue;
    }
    QuantizedLinear layer =
        read_quantized(tensors.tensors(), spec.name, model.info.bits.weights, model.info.grid.group,
                       model.info.grid.symmetric, weights_file, taken);
    if (layer.codes.sizes() != master.sizes()) {
      fail(ErrorCode::damaged, "{}: {} has shape [{}], expected [{}] by config.json", weights_file,
           spec.name, fmt::join(layer.codes.sizes(), ", "), fmt::join(spec.shape, ", "));
    }
    master.copy_(layer.dequantized());
    model.weights[spec.name] = std::move(layer);
  }
  sync_compute(model.store);
  return model;
}

}  // namespace osp
