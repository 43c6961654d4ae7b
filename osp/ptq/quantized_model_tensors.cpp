#include "osp/ptq/quantized_model_tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/formats/compressed_tensors.h"
#include "osp/model/hf_config.h"
#include "osp/ptq/quantize_block.h"
#include "osp/ptq/quantized_model_config.h"
#include "osp/quant/float_grid.h"

namespace osp {
namespace {

constexpr int64_t kLargestDimension = int64_t{1} << 24;

at::Tensor unpacked(const at::Tensor& words, int64_t columns, int64_t bits) {
  const std::vector<int8_t> codes =
      unpack_codes({words.const_data_ptr<int32_t>(), static_cast<size_t>(words.numel())},
                   words.size(0), columns, bits);
  at::Tensor result = at::empty({words.size(0), columns}, at::kChar);
  std::memcpy(result.mutable_data_ptr(), codes.data(), codes.size());
  return result;
}

at::ScalarType scalar_type(const std::string& dtype) {
  if (dtype == "I8") return at::kChar;
  if (dtype == "U8") return at::kByte;
  if (dtype == "F8_E4M3") return at::kFloat8_e4m3fn;
  if (dtype == "I32") return at::kInt;
  if (dtype == "I64") return at::kLong;
  if (dtype == "F16") return at::kHalf;
  if (dtype == "BF16") return at::kBFloat16;
  return at::kFloat;
}

// A tensor of the file with the wanted shape and one of the wanted types.
at::Tensor take(const std::map<std::string, TensorView>& tensors, const std::string& name,
                const std::vector<std::string>& dtypes, const std::vector<int64_t>& shape,
                const std::string& where, std::set<std::string>& taken) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail(ErrorCode::damaged, "{}: tensor {} is missing", where, name);
  const TensorView& view = found->second;
  if (std::find(dtypes.begin(), dtypes.end(), view.dtype) == dtypes.end() || view.shape != shape) {
    fail(ErrorCode::damaged, "{}: tensor {} is {} [{}], expected {} [{}]", where, name, view.dtype,
         fmt::join(view.shape, ", "), fmt::join(dtypes, " or "), fmt::join(shape, ", "));
  }
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(scalar_type(view.dtype)));
  if (tensor.numel() > 0) {
    std::memcpy(tensor.mutable_data_ptr(), view.data.data(), view.data.size());
  }
  taken.insert(name);
  return tensor;
}

}  // namespace

at::Tensor packed_rows(const at::Tensor& codes, int64_t bits) {
  const at::Tensor c = codes.contiguous();
  const std::vector<int32_t> words = pack_codes(
      {c.const_data_ptr<int8_t>(), static_cast<size_t>(c.numel())}, c.size(0), c.size(1), bits);
  at::Tensor result = at::empty({c.size(0), packed_words(c.size(1), bits)}, at::kInt);
  std::memcpy(result.mutable_data_ptr(), words.data(), words.size() * sizeof(int32_t));
  return result;
}

void TensorBuffers::add(const std::string& name, const std::string& dtype,
                        const at::Tensor& tensor) {
  held.push_back(tensor.contiguous());
  const at::Tensor& t = held.back();
  entries.push_back({name,
                     dtype,
                     t.sizes().vec(),
                     {static_cast<const std::byte*>(t.const_data_ptr()), t.nbytes()}});
}

namespace {

at::Tensor packed_pairs(const at::Tensor& codes) {
  const at::Tensor c = codes.contiguous();
  const std::vector<uint8_t> bytes =
      pack_nibbles({c.const_data_ptr<int8_t>(), static_cast<size_t>(c.numel())});
  at::Tensor result = at::empty({c.size(0), c.size(1) / 2}, at::kByte);
  std::memcpy(result.mutable_data_ptr(), bytes.data(), bytes.size());
  return result;
}

at::Tensor unpacked_pairs(const at::Tensor& bytes) {
  const std::vector<int8_t> codes =
      unpack_nibbles({bytes.const_data_ptr<uint8_t>(), static_cast<size_t>(bytes.numel())});
  at::Tensor result = at::empty({bytes.size(0), bytes.size(1) * 2}, at::kChar);
  std::memcpy(result.mutable_data_ptr(), codes.data(), codes.size());
  return result;
}

void add_floats(TensorBuffers& buffers, const std::string& name, const QuantizedLinear& layer) {
  if (layer.kind == NumberKind::fp8) {
    buffers.add(name, "F8_E4M3", layer.codes);
    buffers.add(name + "_scale", "F32", layer.scale);
    return;
  }
  buffers.add(name + "_packed", "U8", packed_pairs(layer.codes));
  if (layer.kind == NumberKind::mxfp4) {
    buffers.add(name + "_scale", "U8", e8m0_of_scales(layer.scale));
    return;
  }
  buffers.add(name + "_scale", "F8_E4M3", layer.scale.to(at::kFloat8_e4m3fn));
  buffers.add(name + "_global_scale", "F32", layer.global);
}

QuantizedLinear read_floats(const std::map<std::string, TensorView>& tensors,
                            const StoredTensor& stored, NumberKind kind, const std::string& where,
                            std::set<std::string>& taken) {
  const std::string& name = stored.name;
  const int64_t out = stored.shape[0], in = stored.shape[1], block = block_size(kind);
  if (block > 0 && in % block != 0) {
    fail(ErrorCode::damaged, "{}: {} has {} columns, which blocks of {} ({}) do not divide", where,
         name, in, block, number_kind_name(kind));
  }
  QuantizedLinear layer;
  layer.kind = kind;
  layer.bits = NumberFormat(kind).bits;
  layer.group = block;
  const auto take_one = [&](const std::string& ending, const char* dtype,
                            const std::vector<int64_t>& shape) {
    return take(tensors, name + ending, {dtype}, shape, where, taken);
  };
  if (kind == NumberKind::fp8) {
    layer.codes = take_one("", "F8_E4M3", {out, in}).view(at::kChar);
    layer.scale = take_one("_scale", "F32", {out, 1});
  } else {
    layer.codes = unpacked_pairs(take_one("_packed", "U8", {out, in / 2}));
    if (kind == NumberKind::mxfp4) {
      layer.scale = scales_of_e8m0(take_one("_scale", "U8", {out, in / block}));
    } else {
      layer.scale = take_one("_scale", "F8_E4M3", {out, in / block}).to(at::kFloat);
      layer.global = take_one("_global_scale", "F32", {1});
    }
  }
  check_quantized(layer, where + ": " + name);
  return layer;
}

}  // namespace

void add_quantized(TensorBuffers& buffers, const std::string& name, const QuantizedLinear& layer,
                   bool wide_scales) {
  if (!layer.is_integer()) return add_floats(buffers, name, layer);
  buffers.add(name + "_packed", "I32", packed_rows(layer.codes, layer.bits));
  const at::Tensor half = layer.scale.to(at::kHalf);
  const bool exact = !wide_scales && half.to(at::kFloat).equal(layer.scale);
  buffers.add(name + "_scale", exact ? "F16" : "F32", exact ? half : layer.scale);
  at::Tensor shape = at::empty({2}, at::kLong);
  shape[0] = layer.rows();
  shape[1] = layer.columns();
  buffers.add(name + "_shape", "I64", shape);
  if (!layer.symmetric()) {
    buffers.add(name + "_zero_point", "I8", layer.zero);
  }
}

namespace {

QuantizedLinear read_quantized(const std::map<std::string, TensorView>& tensors,
                               const std::string& name, const WeightGrid& grid,
                               const std::string& where, std::set<std::string>& taken) {
  const int64_t bits = grid.bits, group = grid.group;
  const at::Tensor shape = take(tensors, name + "_shape", {"I64"}, {2}, where, taken);
  const int64_t out = shape[0].item<int64_t>(), in = shape[1].item<int64_t>();
  const bool plausible = out > 0 && in > 0 && out <= kLargestDimension && in <= kLargestDimension;
  if (!plausible || (group > 0 && in % group != 0)) {
    fail(ErrorCode::damaged, "{}: {}_shape is [{}, {}], which groups of {} do not fit", where, name,
         out, in, group);
  }
  const int64_t groups = group == 0 ? 1 : in / group;
  QuantizedLinear layer;
  layer.bits = bits;
  layer.group = group;
  layer.codes = unpacked(
      take(tensors, name + "_packed", {"I32"}, {out, packed_words(in, bits)}, where, taken), in,
      bits);
  layer.scale = take(tensors, name + "_scale", {"F16", "F32", "BF16"}, {out, groups}, where, taken)
                    .to(at::kFloat);
  if (!grid.symmetric) {
    const std::string zero = name + "_zero_point";
    if (tensors.contains(zero) && tensors.at(zero).dtype == "I32") {
      const at::Tensor words =
          take(tensors, zero, {"I32"}, {packed_words(out, bits), groups}, where, taken);
      layer.zero = unpacked(words.t().contiguous(), out, bits).t().contiguous();
    } else {
      layer.zero = take(tensors, zero, {"I8"}, {out, groups}, where, taken);
    }
  }
  check_quantized(layer, where + ": " + name);
  return layer;
}

// The layer that a family stores for several parameters, and the reverse.
QuantizedLinear joined(const ModelConfig& config, const StoredTensor& stored,
                       const std::vector<QuantizedLinear>& parts) {
  const auto rows = [&](at::Tensor QuantizedLinear::*field) {
    std::vector<at::Tensor> tensors;
    for (const QuantizedLinear& part : parts) {
      if (!(part.*field).defined()) return at::Tensor();
      tensors.push_back((part.*field).contiguous());
    }
    return join_rows(config, stored, tensors);
  };
  QuantizedLinear layer = parts[0];
  for (const QuantizedLinear& part : parts) {
    OSP_CHECK(!layer.global.defined() || part.global.equal(layer.global),
              "{}: its layers have several global scales", stored.name);
  }
  layer.codes = rows(&QuantizedLinear::codes);
  layer.scale = rows(&QuantizedLinear::scale);
  layer.zero = rows(&QuantizedLinear::zero);
  return layer;
}

}  // namespace

std::vector<QuantizedLinear> split_layer(const ModelConfig& config, const StoredTensor& stored,
                                         const QuantizedLinear& layer) {
  const auto codes = split_rows(config, stored, layer.codes);
  const auto scales = split_rows(config, stored, layer.scale);
  std::vector<QuantizedLinear> parts(codes.size(), layer);
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].codes = codes[i];
    parts[i].scale = scales[i];
    if (layer.zero.defined()) parts[i].zero = split_rows(config, stored, layer.zero)[i];
  }
  return parts;
}

namespace {

// The numbers where they lie in the file, to be copied from; in memory of their own if another
// program has moved them off their alignment.
at::Tensor read_plain(const TensorView& view, const std::vector<int64_t>& shape,
                      const std::string& where) {
  if (view.shape != shape) {
    fail(ErrorCode::damaged, "{} has shape [{}], expected [{}] by config.json", where,
         fmt::join(view.shape, ", "), fmt::join(shape, ", "));
  }
  if (view.dtype != "F32" && view.dtype != "BF16" && view.dtype != "F16") {
    fail(ErrorCode::unsupported, "{} has type {}; osp reads F32, BF16 and F16", where, view.dtype);
  }
  const auto options = at::TensorOptions().dtype(scalar_type(view.dtype));
  if (reinterpret_cast<uintptr_t>(view.data.data()) % 8 == 0) {
    return at::from_blob(const_cast<std::byte*>(view.data.data()), shape, options);
  }
  at::Tensor raw = at::empty(shape, options);
  std::memcpy(raw.mutable_data_ptr(), view.data.data(), view.data.size());
  return raw;
}

// The static scale of a layer's input, as compressed-tensors wants it beside the weight.
void add_static_scale(TensorBuffers& buffers, const std::string& weight, const StaticScale& scale,
                      const NumberFormat& format) {
  const std::string layer = weight.substr(0, weight.rfind('.'));
  if (format.is_float()) {
    const bool nested = format.kind == NumberKind::nvfp4;
    buffers.add(layer + (nested ? ".input_global_scale" : ".input_scale"), "F32",
                at::full({1}, scale.scale, at::kFloat));
    return;
  }
  const double shift = std::ldexp(1.0, static_cast<int>(format.bits) - 1);
  buffers.add(layer + ".input_scale", "F32", at::full({1}, scale.scale, at::kFloat));
  buffers.add(layer + ".input_zero_point", "I8", at::full({1}, scale.zero - shift, at::kChar));
}

}  // namespace

namespace {

// That of the first parameter of a stored tensor.
const ParameterSpec& spec_of(const StoredTensor& stored, const ParameterStore& part) {
  return part.specs[static_cast<size_t>(stored.parameters[0])];
}

}  // namespace

ModelConfig stored_config(ModelConfig config) {
  if (architecture_name(config) == "OspForCausalLM") config.family = "";
  return config;
}

std::optional<QuantizedLinear> joined_layer(const StoredTensor& stored, const ParameterStore& part,
                                            const QuantizedWeights& weights) {
  std::vector<QuantizedLinear> layers;
  for (const int64_t parameter : stored.parameters) {
    const auto found = weights.find(part.specs[static_cast<size_t>(parameter)].name);
    if (found != weights.end()) layers.push_back(found->second);
  }
  if (layers.empty()) return std::nullopt;
  return joined(part.config, stored, layers);
}

void add_part(TensorBuffers& buffers, const ParameterStore& part, const QuantizedWeights& weights,
              const ActivationScales& scales, const NumberFormat& activations, TableType tables) {
  const ModelConfig config = stored_config(part.config);
  std::map<std::string, StaticScale> scale_of;  // by the weight's name here
  for (const auto& [place, scale] : scales) {
    for (const LinearGroup& group : linear_groups(part, place.second)) {
      if (group.input != place.first) continue;
      for (const int64_t parameter : group.parameters) {
        scale_of[part.specs[static_cast<size_t>(parameter)].name] = scale;
      }
    }
  }
  for (const StoredTensor& stored : stored_tensors(config, part.specs)) {
    const std::string& first = spec_of(stored, part).name;
    if (const auto layer = joined_layer(stored, part, weights)) {
      add_quantized(buffers, stored.name, *layer);
    } else if (tables == TableType::bf16 && is_table(spec_of(stored, part))) {
      buffers.add(stored.name, "BF16", gather_stored(stored, part).to(at::kBFloat16));
    } else {
      buffers.add(stored.name, "F32", gather_stored(stored, part));
    }
    if (scale_of.contains(first)) {
      add_static_scale(buffers, stored.name, scale_of.at(first), activations);
    }
  }
}

namespace {

std::string offset_name(TapPoint point, int64_t layer) {
  return fmt::format("osp.layers.{}.{}.offset", layer, input_name(point));
}

}  // namespace

void add_offsets(TensorBuffers& buffers, const InputOffsets& offsets) {
  for (const auto& [place, offset] : offsets) {
    buffers.add(offset_name(place.first, place.second), "F32", offset);
  }
}

InputOffsets read_offsets(const std::map<std::string, TensorView>& tensors,
                          const ModelConfig& config, MeanOffset inputs,
                          std::span<const int64_t> layers, const std::string& where) {
  InputOffsets offsets;
  std::set<std::string> taken;
  for (const int64_t layer : layers) {
    for (const TapPoint point : offset_points(inputs)) {
      const std::string name = offset_name(point, layer);
      const at::Tensor offset =
          take(tensors, name, {"F32"}, {columns_at(config, point, layer)}, where, taken);
      if (!at::isfinite(offset).all().item<bool>()) {
        fail(ErrorCode::damaged, "{}: tensor {} is not finite", where, name);
      }
      offsets[{point, layer}] = offset;
    }
  }
  return offsets;
}

QuantizedWeights read_part(const std::map<std::string, TensorView>& tensors, ParameterStore& part,
                           const WeightGrid& grid, const std::string& where,
                           std::set<std::string>& taken, TableType tables,
                           QuantizedWeights* table_codes) {
  QuantizedWeights weights;
  for (const StoredTensor& stored : stored_tensors(stored_config(part.config), part.specs)) {
    leave_files_if_stopped("weights were read");
    // Tensors that are stored as they are.
    const auto plain = tensors.find(stored.name);
    const bool is_fp8 = grid.kind == NumberKind::fp8 && plain != tensors.end() &&
                        plain->second.dtype == "F8_E4M3" && stored.shape.size() == 2;
    if (plain != tensors.end() && !is_fp8) {
      scatter_stored(
          stored, read_plain(plain->second, stored.shape, where + ": tensor " + stored.name), part);
      release_pages(plain->second.data);  // tables are the largest tensors of small models
      taken.insert(stored.name);
      continue;
    }
    // Codes and scales of a layer or of a table of integers.
    const bool table = has_integers(tables) && is_table(spec_of(stored, part));
    const QuantizedLinear layer =
        table ? read_quantized(tensors, stored.name, table_grid(tables, stored.shape[1]), where,
                               taken)
        : grid.is_integer() ? read_quantized(tensors, stored.name, grid, where, taken)
                            : read_floats(tensors, stored, grid.kind, where, taken);
    if (layer.codes.sizes().vec() != stored.shape) {
      fail(ErrorCode::damaged, "{}: {} has shape [{}], expected [{}] by config.json", where,
           stored.name, fmt::join(layer.codes.sizes(), ", "), fmt::join(stored.shape, ", "));
    }
    // A table becomes the numbers that its codes stand for.
    if (table) {
      scatter_stored(stored, layer.dequantized(), part);
      for (const char* ending : {"_packed", "_scale"}) {
        release_pages(tensors.at(stored.name + ending).data);
      }
      if (table_codes != nullptr) (*table_codes)[spec_of(stored, part).name] = layer;
      continue;
    }
    // A stored tensor may hold several layers of the model.
    const std::vector<QuantizedLinear> layers = split_layer(part.config, stored, layer);
    for (size_t i = 0; i < layers.size(); ++i) {
      weights[part.specs[static_cast<size_t>(stored.parameters[i])].name] = layers[i];
    }
  }
  return weights;
}

}  // namespace osp
