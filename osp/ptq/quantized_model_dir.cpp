#include "osp/ptq/quantized_model_dir.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <numeric>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/json_text.h"
#include "osp/formats/safetensors.h"
#include "osp/model/gguf_model.h"
#include "osp/model/hf_config.h"
#include "osp/model/hf_family.h"
#include "osp/model/model_dir.h"
#include "osp/ops/hadamard.h"
#include "osp/ptq/quantized_model_tensors.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {
namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kInfoKey = "osp_quantization";
constexpr size_t kMaxConfigBytes = 1 << 20;

// The type that other programs unpack weights to: compressed-tensors makes bf16 of
// four-bit numbers.
const char* unpacked_type(const QuantizedModelInfo& info) {
  const bool four = info.grid.kind == NumberKind::mxfp4 || info.grid.kind == NumberKind::nvfp4;
  return four ? "bfloat16" : "float32";
}

// The first place where `found` does not say what `wanted` does, "" if there is none;
// `found` may say more.
std::string first_difference(const Json& wanted, const Json& found, const std::string& place) {
  if (!wanted.is_object()) {
    if (wanted == found) return "";
    return fmt::format("{} is {}, expected {}", place, json_text(found), json_text(wanted));
  }
  if (!found.is_object())
    return fmt::format("{} is {}, expected an object", place, json_text(found));
  for (const auto& [key, value] : wanted.items()) {
    const auto other = found.find(key);
    if (other == found.end()) return fmt::format("{}.{} is missing", place, key);
    const std::string difference = first_difference(value, *other, place + "." + key);
    if (!difference.empty()) return difference;
  }
  return "";
}

// Two descriptions of floating-point numbers that contradict each other: other programs would read
// other weights than osp.
void check_agreement(const Json& config, const QuantizedConfig& read, const std::string& file) {
  if (!read.info.bits.any_float()) return;
  const std::string key = "quantization_config";
  if (!config.contains(key)) fail(ErrorCode::damaged, "{}: no key {}", file, key);
  const std::string difference =
      first_difference(compressed_tensors_config(read.info, read.model), config[key], key);
  if (!difference.empty()) {
    fail(ErrorCode::damaged, "{}: {} by {}; the two contradict each other", file, difference,
         kInfoKey);
  }
}

Json config_with_quantization(const ModelConfig& model, const QuantizedModelInfo& info,
                              const std::string& source_dir) {
  const bool known = is_gguf_path(source_dir) || path_exists(source_dir + "/config.json");
  const std::vector<int64_t> end_tokens =
      known ? load_end_tokens(source_dir) : std::vector<int64_t>{};
  Json config = parse_json(
      model_config_json(model, unpacked_type(info), end_tokens, load_outer_tokens(source_dir)),
      "config.json");
  add_quantization(config, info, model);
  return config;
}

std::string weights_file_of(const std::string& path) {
  if (path_exists(path + "/" + kPanelFile)) refuse_panels(path);
  return path + "/" + kWeights;
}

// Names and shapes of what the folder must hold, before anything is allocated from the numbers
// of config.json.
void check_tensors(const std::map<std::string, TensorView>& tensors, const ModelConfig& model,
                   const std::string& file) {
  for (const StoredTensor& stored : stored_tensors(stored_config(model), parameter_specs(model))) {
    const auto plain = tensors.find(stored.name);
    if (plain == tensors.end() && !tensors.contains(stored.name + "_packed")) {
      fail(ErrorCode::damaged, "{}: tensor {} is missing", file, stored.name);
    }
    if (plain != tensors.end() && plain->second.shape != stored.shape) {
      fail(ErrorCode::damaged, "{}: tensor {} has shape [{}], expected [{}] by config.json", file,
           stored.name, fmt::join(plain->second.shape, ", "), fmt::join(stored.shape, ", "));
    }
  }
}

}  // namespace

std::unique_ptr<FakeQuantTap> QuantizedModel::make_tap() const {
  return std::make_unique<FakeQuantTap>(
      store, BitWidths{16, info.bits.activations, info.bits.kv_cache}, info.online,
      ActivationGrids{
          .scales = info.scales, .clips = info.clips, .groups = info.groups, .offsets = offsets});
}

ParameterStore QuantizedModel::plain_store() const {
  ParameterStore plain = make_parameters(store.config, {});
  for (size_t i = 0; i < plain.specs.size(); ++i) {
    const at::Tensor weight = store.master(store.find(plain.specs[i].name));
    const bool turned = info.online.down_hadamard && plain.specs[i].role == ParameterRole::down &&
                        plain.specs[i].kind == ParameterKind::matrix;
    plain.master(static_cast<int64_t>(i))
        .copy_(turned ? hadamard_transform(weight.to(at::kDouble),
                                           {.block = info.online.down_block, .transposed = true})
                      : weight);
  }
  sync_compute(plain);
  return plain;
}

void check_output_dir(const std::string& path) {
  if (!path_exists(path)) return;
  if (is_directory(path) && std::filesystem::is_empty(path)) return;
  fail(ErrorCode::usage, "{}: exists already; remove it or choose another --out", path);
}

void save_quantized_model_dir(const PartFolder& parts, const ModelConfig& model,
                              const QuantizedModelInfo& info, const Json& report,
                              const std::string& source_dir, const std::string& path) {
  check_output_dir(path);
  std::vector<SafetensorsFile> files;
  std::vector<TensorEntry> entries;
  for (int64_t part = -1; part < model.layers; ++part) {
    files.push_back(parts.tensors(part));
    for (const auto& [name, view] : files.back().tensors()) {
      entries.push_back({name, view.dtype, view.shape, view.data});
    }
  }
  write_folder_atomic(path, [&](const std::string& temporary) {
    write_safetensors(temporary + "/" + kWeights, entries, {{"format", "pt"}});
    copy_model_files(source_dir, temporary, path);
    write_file_atomic(temporary + "/quantize.json", json_text(report, 2) + "\n");
    write_file_atomic(temporary + "/config.json",
                      json_text(config_with_quantization(model, info, source_dir), 2) + "\n");
  });
}

bool is_quantized_model_dir(const std::string& path) {
  const std::string file = path + "/config.json";
  if (!path_exists(file)) return false;
  const Json config = read_json_file(file, kMaxConfigBytes);
  return config.is_object() && config.contains(kInfoKey);
}

std::string rounded_before(const std::string& path) {
  if (is_quantized_model_dir(path)) return load_quantized_config(path).info.rounded_before;
  return load_model_config(path).rounded_before;
}

QuantizedConfig load_quantized_config(const std::string& path) {
  const std::string file = path + "/config.json";
  const Json with = read_json_file(file, kMaxConfigBytes);
  QuantizedConfig config{.info = {}, .model = {}, .json = without_quantization(with, file)};
  config.info = parse_quantization_info(with[kInfoKey], file);
  config.model = parse_hf_config(config.json, file).model;
  try {
    check_activation_groups(config.info.groups, config.model);
    check_float_blocks(config.info.bits, config.model);
  } catch (const Error& error) {
    fail(ErrorCode::damaged, "{}: {}", file, error.what());
  }
  check_agreement(with, config, file);
  return config;
}

QuantizedFolder::QuantizedFolder(const std::string& path)
    : QuantizedFolder(path, load_quantized_config(path)) {}

QuantizedFolder::QuantizedFolder(const std::string& path, QuantizedConfig config)
    : weights_file_(weights_file_of(path)),
      config_(std::move(config)),
      tensors_(SafetensorsFile::open(weights_file_)) {
  check_tensors(tensors_.tensors(), config_.model, weights_file_);
}

InputOffsets QuantizedFolder::read_offsets() const {
  std::vector<int64_t> layers(static_cast<size_t>(config_.model.layers));
  std::iota(layers.begin(), layers.end(), 0);
  return osp::read_offsets(tensors_.tensors(), config_.model, config_.info.mean_offset, layers,
                           weights_file_);
}

void QuantizedFolder::release() const {
  for (const auto& [name, view] : tensors_.tensors()) release_pages(view.data);
}

ParameterStore QuantizedFolder::read(Part part, QuantizedWeights& weights,
                                     QuantizedWeights* tables) const {
  ParameterStore store = make_parameters(config_.model, {.part = part});
  std::set<std::string> taken;
  weights = read_part(tensors_.tensors(), store, config_.info.grid, weights_file_, taken,
                      config_.info.tables, tables);
  return store;
}

QuantizedModel load_quantized_model_dir(const std::string& path) {
  return load_quantized_model(QuantizedFolder(path));
}

QuantizedModel load_quantized_model(const QuantizedFolder& folder) {
  QuantizedModel model;
  model.info = folder.info();
  model.store = folder.read(kWhole, model.weights, &model.tables);
  model.offsets = folder.read_offsets();
  for (const auto& [name, layer] : model.weights) {
    leave_files_if_stopped("weights were read");
    model.store.master(model.store.find(name)).copy_(layer.dequantized());
  }
  sync_compute(model.store);
  return model;
}

}  // namespace osp
