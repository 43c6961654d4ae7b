#include "osp/export/coded_model.h"

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/formats/gguf.h"
#include "osp/model/model_dir.h"
#include "osp/model/model_files.h"
#include "osp/model/packed_weights.h"
#include "osp/model/wrapped_model.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/quantized_model_tensors.h"

namespace osp {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr const char* kPacking = "codes were packed";

[[noreturn]] void refuse_plain(const std::string& dir) {
  fail(ErrorCode::usage, "{}: not quantized; run osp quantize first", dir);
}

// A folder of `osp quantize`.
class OwnCodes : public CodedModel {
 public:
  explicit OwnCodes(const std::string& dir)
      : folder_(dir), config_(stored_config(folder_.config())) {}
  const QuantizedModelInfo& info() const override { return folder_.info(); }
  const ModelConfig& config() const override { return config_; }
  Json config_json() const override { return folder_.config_json(); }
  void each(const std::function<void(const CodedTensor&)>& take) const override {
    for (int64_t part = kNoLayer; part < config_.layers; ++part) {
      QuantizedWeights weights;
      const ParameterStore store = folder_.read(part, weights);
      for (const StoredTensor& stored : stored_tensors(config_, store.specs)) {
        leave_files_if_stopped(kPacking);
        const auto layer = joined_layer(stored, store, weights);
        if (layer) {
          take({store, stored, &*layer, {}, {}});
        } else {
          take({store, stored, nullptr, {}, gather_stored(stored, store)});
        }
      }
    }
  }

 private:
  QuantizedFolder folder_;
  ModelConfig config_;
};

bool is_block_layer(const StoredTensor& stored, const std::vector<ParameterSpec>& specs) {
  return specs[static_cast<size_t>(stored.parameters.front())].kind == ParameterKind::matrix;
}

// Codes as osp has them; zero points that are all 0 are none.
QuantizedLinear layer_of(const PackedCodes& packed, bool symmetric) {
  QuantizedLinear layer;
  layer.codes = packed.codes;
  layer.scale = packed.scale;
  if (!symmetric) layer.zero = packed.zero;
  layer.bits = packed.bits;
  layer.group = packed.group;
  return layer;
}

// A folder of another program, or a GGUF file.
class ForeignCodes : public CodedModel {
 public:
  explicit ForeignCodes(const std::string& dir)
      : dir_(dir), source_(open_model(dir)), config_(source_->config()) {
    // Bits and groups are those of the first layer, and of all.
    bool found = false;
    info_.grid.symmetric = true;
    const std::vector<ParameterSpec> specs = parameter_specs(config_);
    for (const StoredTensor& stored : stored_tensors(config_, specs)) {
      leave_files_if_stopped("weights were read");
      if (!is_block_layer(stored, specs)) continue;
      const auto codes = source_->codes(stored, specs);
      if (!codes) continue;
      const QuantizedLinear layer = layer_of(*codes, true);
      if (!found) {
        info_.grid.bits = layer.bits;
        info_.grid.group = layer.group;
      } else if (layer.bits != info_.grid.bits || layer.group != info_.grid.group) {
        fail(ErrorCode::unsupported,
             "{}: {} has {} bits in groups of {}, layers before it {} bits in groups of {} (0: a "
             "whole row), and a format of codes has one of each; --format hf writes the numbers",
             dir, stored.name, layer.bits, layer.group, info_.grid.bits, info_.grid.group);
      }
      found = true;
      if (codes->zero.ne(0).any().item<bool>()) info_.grid.symmetric = false;
    }
    info_.bits = {info_.grid.bits, 16, 16};
    info_.online.query_key_hadamard = false;
    info_.method = source_->rounded_before();
    if (!found && info_.method.empty()) refuse_plain(dir);
    if (!found) {
      fail(ErrorCode::unsupported,
           "{}: its codes are no integers with a scale for columns of a row ({}); --format hf "
           "writes the numbers that they stand for, and osp quantize rounds these once more",
           dir, info_.method);
    }
  }
  const QuantizedModelInfo& info() const override { return info_; }
  const ModelConfig& config() const override { return config_; }
  Json config_json() const override {
    if (is_gguf_path(dir_)) {
      return parse_json(
          model_config_json(config_, "float32", load_end_tokens(dir_), load_outer_tokens(dir_)),
          dir_);
    }
    Json json = read_json_file(dir_ + "/config.json", kMaxConfigBytes);
    json.erase("quantization_config");
    return wraps_text_model(json) ? text_model_config(json, dir_) : json;
  }
  void each(const std::function<void(const CodedTensor&)>& take) const override {
    for (int64_t part = kNoLayer; part < config_.layers; ++part) {
      const ParameterStore store = source_->read(part);
      for (const StoredTensor& stored : stored_tensors(config_, store.specs)) {
        leave_files_if_stopped(kPacking);
        const auto codes = source_->codes(stored, store.specs);
        const bool has_layer = codes && is_block_layer(stored, store.specs);
        if (!has_layer) {
          take({store, stored, nullptr, {}, gather_stored(stored, store), codes.has_value()});
          continue;
        }
        const QuantizedLinear layer = layer_of(*codes, info_.grid.symmetric);
        take({store, stored, &layer, codes->column_group, {}});
      }
    }
  }

 private:
  std::string dir_;
  std::unique_ptr<ModelSource> source_;
  ModelConfig config_;
  QuantizedModelInfo info_;
};

}  // namespace

std::optional<PackedLayout> foreign_layout(const std::string& dir) {
  if (is_gguf_path(dir) || is_quantized_model_dir(dir)) return std::nullopt;
  const std::string file = dir + "/config.json";
  return packed_layout(read_json_file(file, kMaxConfigBytes), file);
}

bool has_foreign_codes(const std::string& dir) { return foreign_layout(dir).has_value(); }

std::unique_ptr<CodedModel> open_coded_model(const std::string& dir) {
  if (is_quantized_model_dir(dir)) return std::make_unique<OwnCodes>(dir);
  if (is_gguf_path(dir) || has_foreign_codes(dir)) return std::make_unique<ForeignCodes>(dir);
  refuse_plain(dir);
}

bool is_block_layer(const CodedTensor& tensor) {
  return is_block_layer(tensor.stored, tensor.part.specs);
}

}  // namespace osp
