#include "osp/model/packed_weights.h"

#include <ATen/ops/empty.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <cstring>

#include "osp/base/error.h"
#include "osp/formats/compressed_tensors.h"
#include "osp/model/tensor_values.h"

namespace osp {
namespace {

constexpr const char* kKey = "quantization_config";
// The column whose code stands at a place of an int32 of AWQ.
constexpr std::array<int64_t, 8> kAwqColumns = {0, 2, 4, 6, 1, 3, 5, 7};

[[noreturn]] void unsupported(const std::string& where, const std::string& key,
                              const std::string& found, const std::string& wanted) {
  fail(ErrorCode::unsupported, "{}: {}.{} is {}; osp reads {}", where, kKey, key, found, wanted);
}

// The value of the first of the keys that is there.
const Json* first_of(const Json& json, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (json.contains(key) && !json[key].is_null()) return &json[key];
  }
  return nullptr;
}

int64_t whole(const Json& json, std::initializer_list<const char*> keys, const std::string& where) {
  const Json* value = first_of(json, keys);
  if (value == nullptr || !value->is_number_integer()) {
    fail(ErrorCode::damaged, "{}: {}.{} is {}, expected a whole number", where, kKey, *keys.begin(),
         value == nullptr ? "missing" : value->dump());
  }
  return value->get<int64_t>();
}

int64_t group_of(int64_t size, const std::string& where) {
  if (size == -1) return 0;
  if (size < 1 || size > 1 << 20)
    unsupported(where, "group_size", std::to_string(size), "-1 and more");
  return size;
}

std::string text_of(const Json& json, const char* key, const char* absent) {
  return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : absent;
}

PackedLayout gptq_layout(const Json& json, const std::string& where) {
  PackedLayout layout;
  layout.bits = whole(json, {"bits"}, where);
  if (layout.bits != 2 && layout.bits != 4 && layout.bits != 8) {
    unsupported(where, "bits", std::to_string(layout.bits), "2, 4 and 8 of gptq");
  }
  layout.group = group_of(whole(json, {"group_size"}, where), where);
  const std::string format = text_of(json, "checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    unsupported(where, "checkpoint_format", Json(format).dump(), "gptq and gptq_v2");
  }
  layout.zeros_less_one = format == "gptq";
  return layout;
}

PackedLayout awq_layout(const Json& json, const std::string& where) {
  PackedLayout layout{.kind = PackedKind::awq};
  layout.bits = whole(json, {"bits", "w_bit"}, where);
  if (layout.bits != 4) unsupported(where, "bits", std::to_string(layout.bits), "4 of awq");
  layout.group = group_of(whole(json, {"group_size", "q_group_size"}, where), where);
  const std::string version = text_of(json, "version", "gemm");
  if (version != "gemm" && version != "GEMM") {
    unsupported(where, "version", Json(version).dump(), "gemm");
  }
  return layout;
}

PackedLayout compressed_layout(const Json& json, const std::string& where) {
  const std::string format = text_of(json, "format", "");
  if (format != "pack-quantized") {
    unsupported(where, "format", Json(format).dump(), "pack-quantized of other programs");
  }
  const Json* groups = first_of(json, {"config_groups"});
  if (groups == nullptr || !groups->is_object() || groups->size() != 1) {
    unsupported(where, "config_groups", groups == nullptr ? "missing" : groups->dump(),
                "one group");
  }
  const Json& group = groups->front();
  for (const char* key : {"input_activations", "output_activations"}) {
    if (group.is_object() && first_of(group, {key}) != nullptr) {
      unsupported(where, std::string("config_groups.") + key, "given", "rounded weights alone");
    }
  }
  if (first_of(json, {"kv_cache_scheme"}) != nullptr) {
    unsupported(where, "kv_cache_scheme", "given", "rounded weights alone");
  }
  if (const Json* turned = first_of(json, {"transform_config"});
      turned != nullptr && !turned->empty()) {
    unsupported(where, "transform_config", "given", "weights without online transforms");
  }
  const Json* weights = group.is_object() ? first_of(group, {"weights"}) : nullptr;
  if (weights == nullptr || !weights->is_object()) {
    fail(ErrorCode::damaged, "{}: {}.config_groups has no weights", where, kKey);
  }
  PackedLayout layout{.kind = PackedKind::compressed_tensors};
  if (text_of(*weights, "type", "int") != "int") {
    unsupported(where, "weights.type", (*weights)["type"].dump(), "int");
  }
  layout.bits = whole(*weights, {"num_bits"}, where);
  if (layout.bits != 4 && layout.bits != 8) {
    unsupported(where, "weights.num_bits", std::to_string(layout.bits), "4 and 8");
  }
  const std::string strategy = text_of(*weights, "strategy", "channel");
  if (strategy == "group") {
    layout.group = group_of(whole(*weights, {"group_size"}, where), where);
  } else if (strategy != "channel") {
    unsupported(where, "weights.strategy", Json(strategy).dump(), "group and channel");
  }
  const Json* symmetric = first_of(*weights, {"symmetric"});
  layout.symmetric = symmetric == nullptr || (symmetric->is_boolean() && symmetric->get<bool>());
  return layout;
}

// One part of a layer: its name, for messages, and its bytes.
struct PackedPart {
  const TensorView* view = nullptr;
  std::string name;
  std::string where;

  void check_there() const {
    if (view == nullptr) fail(ErrorCode::damaged, "{}: {} is missing", where, name);
  }
  void check(const std::string& dtype, const std::vector<int64_t>& shape) const {
    check_there();
    if (view->dtype == dtype && view->shape == shape) return;
    fail(ErrorCode::damaged, "{}: {} is {} [{}], expected {} [{}]", where, name, view->dtype,
         fmt::join(view->shape, ", "), dtype, fmt::join(shape, ", "));
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> values(view->data.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), view->data.data(), values.size() * sizeof(T));
    return values;
  }
  std::vector<float> floats(const std::vector<int64_t>& shape) const {
    check_there();
    check(is_read_as_fp32(view->dtype) ? view->dtype : "F32", shape);
    std::vector<float> values(static_cast<size_t>(shape[0] * shape[1]));
    copy_to_fp32(*view, values.data());
    for (const float value : values) {
      if (!std::isfinite(value)) {
        fail(ErrorCode::damaged, "{}: {} holds {}, expected finite scales", where, name, value);
      }
    }
    return values;
  }
};

// Code `place` of int32 words with `bits` each.
int64_t code_at(const std::vector<int32_t>& words, int64_t word, int64_t place, int64_t bits) {
  const auto value = static_cast<uint32_t>(words[static_cast<size_t>(word)]);
  return value >> (place * bits) & ((1u << bits) - 1);
}

// The group of each input, by an index or in order.
std::vector<int64_t> groups_of_inputs(const PackedPart& index, int64_t columns, int64_t group,
                                      int64_t groups) {
  std::vector<int64_t> result;
  if (index.view == nullptr) {
    for (int64_t i = 0; i < columns; ++i) result.push_back(group > 0 ? i / group : 0);
    return result;
  }
  index.check("I32", {columns});
  for (const int32_t value : index.read<int32_t>()) {
    if (value < 0 || value >= groups) {
      fail(ErrorCode::damaged, "{}: {} names group {} of {}", index.where, index.name, value,
           groups);
    }
    result.push_back(value);
  }
  return result;
}

}  // namespace

std::optional<PackedLayout> packed_layout(const Json& config, const std::string& where) {
  if (!config.is_object() || !config.contains(kKey) || config[kKey].is_null()) return std::nullopt;
  if (config.contains("osp_quantization"))
    return std::nullopt;  // ours: osp/ptq/quantized_model_dir.h
  const Json& json = config[kKey];
  if (!json.is_object()) {
    fail(ErrorCode::damaged, "{}: {} is {}, expected an object", where, kKey,
         json.dump().substr(0, 60));
  }
  const std::string method = text_of(json, "quant_method", "");
  if (method == "gptq") return gptq_layout(json, where);
  if (method == "awq") return awq_layout(json, where);
  if (method == "compressed-tensors") return compressed_layout(json, where);
  if (method == "mxfp4") return PackedLayout{.kind = PackedKind::mxfp4};
  unsupported(where, "quant_method", Json(method).dump(),
              "gptq, awq, mxfp4 and compressed-tensors");
}

PackedParts packed_parts(const PackedLayout& layout) {
  switch (layout.kind) {
    case PackedKind::gptq:
      return {{"qweight", "qzeros", "scales"}, {"g_idx"}};
    case PackedKind::awq:
      return {{"qweight", "qzeros", "scales"}, {}};
    case PackedKind::compressed_tensors:
      if (layout.symmetric)
        return {{"weight_packed", "weight_scale"}, {"weight_shape", "weight_g_idx"}};
      return {{"weight_packed", "weight_scale", "weight_zero_point"},
              {"weight_shape", "weight_g_idx"}};
    case PackedKind::mxfp4:
      return {{"_blocks", "_scales"}, {}};
  }
  OSP_CHECK(false, "unknown layout");
}

at::Tensor unpack_weight(const PackedLayout& layout, int64_t rows, int64_t columns,
                         const std::function<const TensorView*(const std::string&)>& find,
                         const std::string& where) {
  const auto part = [&](const std::string& ending) {
    return PackedPart{find(ending), ending, where};
  };
  // Check the groups.
  const int64_t bits = layout.bits, per_word = 32 / bits;
  const int64_t group = layout.group > 0 ? layout.group : columns;
  if (columns % group != 0) {
    fail(ErrorCode::damaged, "{}: groups of {} do not divide the {} inputs", where, group, columns);
  }
  const int64_t groups = columns / group;
  at::Tensor weight = at::empty({rows, columns}, at::kFloat);
  float* out = weight.mutable_data_ptr<float>();
  if (layout.kind == PackedKind::compressed_tensors) {
    // compressed-tensors: check and unpack the codes.
    const PackedPart packed = part("weight_packed"), zero = part("weight_zero_point");
    const int64_t words = packed_words(columns, bits);
    packed.check("I32", {rows, words});
    if (const PackedPart shape = part("weight_shape"); shape.view != nullptr) {
      shape.check("I64", {2});
      if (shape.read<int64_t>() != std::vector<int64_t>{rows, columns}) {
        fail(ErrorCode::damaged, "{}: weight_shape differs from [{}, {}]", where, rows, columns);
      }
    }
    const std::vector<int8_t> codes = unpack_codes(packed.read<int32_t>(), rows, columns, bits);
    const std::vector<float> scales = part("weight_scale").floats({rows, groups});
    // Unpack the zero points; without them they are 0.
    std::vector<int8_t> zeros(static_cast<size_t>(rows * groups), 0);
    if (!layout.symmetric) {
      zero.check("I32", {packed_words(rows, bits), groups});
      // Packed along the rows: every column of groups is a row of words.
      const std::vector<int32_t> stored = zero.read<int32_t>();
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t g = 0; g < groups; ++g) {
          const int64_t code = code_at(stored, r / per_word * groups + g, r % per_word, bits);
          zeros[static_cast<size_t>(r * groups + g)] =
              static_cast<int8_t>(code - (1 << (bits - 1)));
        }
      }
    }
    // Multiply by the scale of each input's group.
    const std::vector<int64_t> of =
        groups_of_inputs(part("weight_g_idx"), columns, layout.group, groups);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < columns; ++i) {
        const auto at = static_cast<size_t>(r * groups + of[static_cast<size_t>(i)]);
        const int code = codes[static_cast<size_t>(r * columns + i)] - zeros[at];
        out[r * columns + i] = scales[at] * static_cast<float>(code);
      }
    }
    return weight;
  }
  // GPTQ and AWQ: read the parts, whose shapes differ in the codes alone.
  const bool awq = layout.kind == PackedKind::awq;
  if (rows % per_word != 0 || (!awq && columns % per_word != 0)) {
    fail(ErrorCode::damaged, "{}: {} codes in an int32 do not divide [{}, {}]", where, per_word,
         rows, columns);
  }
  const PackedPart packed = part("qweight"), zero = part("qzeros");
  awq ? packed.check("I32", {columns, rows / per_word})
      : packed.check("I32", {columns / per_word, rows});
  zero.check("I32", {groups, rows / per_word});
  const std::vector<int32_t> codes = packed.read<int32_t>(), zeros = zero.read<int32_t>();
  const std::vector<float> scales = part("scales").floats({groups, rows});
  const std::vector<int64_t> of =
      groups_of_inputs(awq ? PackedPart{} : part("g_idx"), columns, layout.group, groups);
  // The place in an int32 of each of its columns.
  std::array<int64_t, 16> place{};
  for (int64_t p = 0; p < per_word; ++p) {
    place[static_cast<size_t>(awq ? kAwqColumns[static_cast<size_t>(p)] : p)] = p;
  }
  // Find the code and the zero point of each weight.
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t word = r / per_word, at = place[static_cast<size_t>(r % per_word)];
    for (int64_t i = 0; i < columns; ++i) {
      const int64_t g = of[static_cast<size_t>(i)];
      int64_t z = code_at(zeros, g * (rows / per_word) + word, at, bits);
      if (layout.zeros_less_one && ++z == int64_t{1} << bits) {
        fail(ErrorCode::unsupported,
             "{}: qzeros has a zero point of 0 in version 1, which programs read differently; "
             "convert it to checkpoint_format gptq_v2",
             where);
      }
      const int64_t q = awq ? code_at(codes, i * (rows / per_word) + word, at, bits)
                            : code_at(codes, i / per_word * rows + r, i % per_word, bits);
      out[r * columns + i] = scales[static_cast<size_t>(g * rows + r)] * static_cast<float>(q - z);
    }
  }
  return weight;
}

}  // namespace osp
