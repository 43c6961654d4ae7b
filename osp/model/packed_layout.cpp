#include "osp/model/packed_layout.h"

#include <initializer_list>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr const char* kKey = "quantization_config";
constexpr int64_t kLargestGroup = 1 << 20;

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

bool is_given(const Json& json, const char* key) {
  const Json* value = first_of(json, {key});
  return value != nullptr && !value->empty();
}

int64_t whole(const Json& json, std::initializer_list<const char*> keys, const std::string& where) {
  const Json* value = first_of(json, keys);
  if (value == nullptr || !value->is_number_integer()) {
    fail(ErrorCode::damaged, "{}: {}.{} is {}, expected a whole number", where, kKey, *keys.begin(),
         value == nullptr ? "missing" : value->dump());
  }
  return value->get<int64_t>();
}

bool truth(const Json& json, const char* key, bool absent) {
  const Json* value = first_of(json, {key});
  return value == nullptr ? absent : value->is_boolean() && value->get<bool>();
}

int64_t group_of(int64_t size, const std::string& where) {
  if (size == -1) return 0;
  if (size < 1 || size > kLargestGroup)
    unsupported(where, "group_size", std::to_string(size), "-1 and more");
  return size;
}

std::string text_of(const Json& json, const char* key, const char* absent) {
  return json.contains(key) && json[key].is_string() ? json[key].get<std::string>() : absent;
}

// A text by its key, or by the key "format", which transformers and GPTQModel take as well; in
// small letters, which they do not tell from capital ones.
std::string format_text(const Json& json, const char* key, const char* absent) {
  std::string text = text_of(json, key, text_of(json, "format", absent).c_str());
  std::ranges::transform(text, text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  });
  return text;
}

PackedLayout gptq_layout(const Json& json, const std::string& where) {
  PackedLayout layout;
  layout.bits = whole(json, {"bits"}, where);
  if (layout.bits != 2 && layout.bits != 4 && layout.bits != 8) {
    unsupported(where, "bits", std::to_string(layout.bits), "2, 4 and 8 of gptq");
  }
  layout.group = group_of(whole(json, {"group_size"}, where), where);
  const std::string format = format_text(json, "checkpoint_format", "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    unsupported(where, "checkpoint_format", Json(format).dump(), "gptq and gptq_v2");
  }
  layout.zeros_less_one = format == "gptq";
  layout.act_order = truth(json, "desc_act", false);
  return layout;
}

PackedLayout awq_layout(const Json& json, const std::string& where) {
  PackedLayout layout{.kind = PackedKind::awq, .program = "AWQ"};
  layout.bits = whole(json, {"bits", "w_bit"}, where);
  if (layout.bits != 4) unsupported(where, "bits", std::to_string(layout.bits), "4 of awq");
  layout.group = group_of(whole(json, {"group_size", "q_group_size"}, where), where);
  const std::string version = format_text(json, "version", "gemm");
  if (version != "gemm") {
    unsupported(where, "version", Json(version).dump(), "gemm");
  }
  return layout;
}

// Fine-grained FP8 of transformers.
PackedLayout fp8_layout(const Json& json, const std::string& where) {
  PackedLayout layout{.kind = PackedKind::fp8, .program = "FP8", .bits = 8};
  layout.scale = "weight_scale_inv";
  layout.rounds_activations = true;
  if (const Json* size = first_of(json, {"weight_block_size"})) {
    take_block(*size, fmt::format("{}: {}.weight_block_size", where, kKey), kLargestGroup, layout);
  } else {
    layout.block_rows = 0;
  }
  return layout;
}

// The files' metadata say the rest, tensor by tensor; the name of torchao's configuration is for
// people: {"quant_type": {"default": {"_type": "Int8WeightOnlyConfig", …}}}.
PackedLayout torchao_marker(const Json& json) {
  PackedLayout layout{.kind = PackedKind::torchao, .program = "torchao"};
  const Json* type = first_of(json, {"quant_type"});
  if (type != nullptr && type->is_object()) type = first_of(*type, {"default"});
  if (type != nullptr && type->is_object()) type = first_of(*type, {"_type"});
  if (type != nullptr && type->is_string()) layout.program += ", " + type->get<std::string>();
  return layout;
}

// Which numbers share a scale, by "strategy".
void take_strategy(const Json& weights, const std::string& where, PackedLayout& layout) {
  const std::string strategy = text_of(weights, "strategy", "channel");
  const bool packed = layout.kind == PackedKind::packed_integers;
  if (strategy == "group" || strategy == "tensor_group") {
    layout.group = group_of(whole(weights, {"group_size"}, where), where);
  } else if (strategy == "block") {
    const Json* size = first_of(weights, {"block_structure"});
    take_block(size == nullptr ? Json() : *size,
               fmt::format("{}: {}.weights.block_structure", where, kKey), kLargestGroup, layout);
    layout.packed_zeros = false;
    if (packed && layout.block_rows != 1) {
      unsupported(where, "weights.block_structure", size->dump(),
                  "pack-quantized blocks of one row");
    }
  } else if (strategy == "tensor" && !packed) {
    layout.block_rows = 0;
  } else if (strategy != "channel") {
    unsupported(where, "weights.strategy", Json(strategy).dump(),
                packed ? "group, channel and block" : "tensor, group, channel and block");
  }
}

// The kind that a format of compressed-tensors and the type of its numbers mean.
PackedKind compressed_kind(const std::string& format, const std::string& type,
                           const std::string& where) {
  const bool is_float = type == "float";
  if (format == "pack-quantized" && !is_float) return PackedKind::packed_integers;
  if (format == "int-quantized" && !is_float) return PackedKind::integers;
  if (format == "float-quantized" && is_float) return PackedKind::fp8;
  if (format == "naive-quantized") return is_float ? PackedKind::fp8 : PackedKind::integers;
  if (format == "mxfp4-pack-quantized" && is_float) return PackedKind::mxfp4;
  if (format == "nvfp4-pack-quantized" && is_float) return PackedKind::nvfp4;
  for (const char* known : {"pack-quantized", "int-quantized", "float-quantized",
                            "mxfp4-pack-quantized", "nvfp4-pack-quantized"}) {
    if (format != known) continue;
    fail(ErrorCode::damaged,
         "{}: {}.format is \"{}\" and weights.type \"{}\"; the two contradict "
         "each other",
         where, kKey, format, type);
  }
  unsupported(where, "format", Json(format).dump(),
              "pack-quantized, int-quantized, float-quantized, naive-quantized, "
              "mxfp4-pack-quantized and nvfp4-pack-quantized");
}

// A description of weights without the size of blocks of one row, [1, columns].
Json without_row_block(Json weights) {
  const Json* size = first_of(weights, {"block_structure"});
  if (size != nullptr && size->is_array() && size->size() == 2 && (*size)[0] == 1) {
    weights["block_structure"] = nullptr;
  }
  return weights;
}

// The one description of weights that all config groups share.
struct GroupWeights {
  Json weights;
  bool whole_rows = false;  // blocks of one row whose sizes differ by group: those of whole rows
};
GroupWeights weights_of_groups(const Json& json, const std::string& where) {
  const Json* groups = first_of(json, {"config_groups"});
  if (groups == nullptr || !groups->is_object() || groups->empty()) {
    unsupported(where, "config_groups", groups == nullptr ? "missing" : groups->dump(),
                "groups with weights");
  }
  const Json* first = nullptr;
  bool same = true;
  for (const Json& group : *groups) {
    const Json* weights = group.is_object() ? first_of(group, {"weights"}) : nullptr;
    if (weights == nullptr || !weights->is_object()) {
      fail(ErrorCode::damaged, "{}: {}.config_groups has no weights", where, kKey);
    }
    if (first == nullptr) first = weights;
    if (without_row_block(*first) != without_row_block(*weights)) {
      unsupported(where, "config_groups", "several with different weights", "one kind of weights");
    }
    same = same && *first == *weights;
  }
  return {*first, !same};
}

PackedLayout compressed_layout(const Json& json, const std::string& where) {
  const auto [weights, whole_rows] = weights_of_groups(json, where);
  // The format, which newer files also give by group.
  std::string format = text_of(json, "format", "");
  for (const Json& group : json["config_groups"]) {
    if (format.empty()) format = text_of(group, "format", "");
    if (text_of(group, "format", format.c_str()) != format) {
      unsupported(where, "config_groups", "several formats", "one format");
    }
  }
  for (const char* key : {"transform_config", "sparsity_config"}) {
    if (is_given(json, key)) {
      unsupported(where, key, "given", "weights without online transforms and sparsity");
    }
  }
  const std::string type = text_of(weights, "type", "int");
  if (type != "int" && type != "float") {
    unsupported(where, "weights.type", Json(type).dump(), "int and float");
  }
  PackedLayout layout{.program = "compressed-tensors"};
  layout.kind = compressed_kind(format, type, where);
  // Widths, scales and zero points.
  layout.bits = whole(weights, {"num_bits"}, where);
  const bool four = layout.kind == PackedKind::mxfp4 || layout.kind == PackedKind::nvfp4;
  const bool packed = layout.kind == PackedKind::packed_integers;
  if (packed ? layout.bits < 2 || layout.bits > 8 : layout.bits != (four ? 4 : 8)) {
    unsupported(where, "weights.num_bits", std::to_string(layout.bits),
                packed ? "2 to 8" : fmt::format("{} of {}", four ? 4 : 8, format));
  }
  take_strategy(weights, where, layout);
  if (whole_rows) layout.group = 0;
  const int64_t block = layout.kind == PackedKind::mxfp4 ? 32 : 16;
  if (four && layout.group != block) {
    fail(ErrorCode::damaged, "{}: {}.weights has groups of {}, expected {} of {}", where, kKey,
         layout.group, block, format);
  }
  layout.symmetric = truth(weights, "symmetric", true);
  if (packed && !layout.symmetric && layout.packed_zeros && 32 % layout.bits != 0) {
    unsupported(where, "weights.num_bits", std::to_string(layout.bits),
                "2, 4 and 8 with packed zero points");
  }
  layout.act_order = first_of(weights, {"actorder"}) != nullptr;
  // What else is rounded when other programs run it.
  for (const Json& group : json["config_groups"]) {
    if (is_given(group, "output_activations")) {
      unsupported(where, "config_groups.output_activations", "given", "weights and inputs");
    }
    if (is_given(group, "input_activations")) layout.rounds_activations = true;
  }
  layout.rounds_cache = is_given(json, "kv_cache_scheme");
  return layout;
}

}  // namespace

void take_block(const Json& sizes, const std::string& where, int64_t largest,
                PackedLayout& layout) {
  const auto good = [&](const Json& number) {
    return number.is_number_integer() && number.get<int64_t>() >= 1 &&
           number.get<int64_t>() <= largest;
  };
  if (!sizes.is_array() || sizes.size() != 2 || !good(sizes[0]) || !good(sizes[1])) {
    fail(ErrorCode::damaged, "{} is {}, expected two sizes", where, sizes.dump().substr(0, 60));
  }
  layout.block_rows = sizes[0].get<int64_t>();
  layout.group = sizes[1].get<int64_t>();
}

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
  if (method == "fp8") return fp8_layout(json, where);
  if (method == "compressed-tensors") return compressed_layout(json, where);
  if (method == "mxfp4") {
    return PackedLayout{.kind = PackedKind::mxfp4_experts, .program = "MXFP4 experts"};
  }
  if (method == "torchao") return torchao_marker(json);
  unsupported(where, "quant_method", Json(method).dump(),
              "gptq, awq, fp8, mxfp4, torchao and compressed-tensors");
}

PackedParts packed_parts(const PackedLayout& layout) {
  PackedParts parts;
  switch (layout.kind) {
    case PackedKind::gptq:
      return {{"qweight", "qzeros", "scales"}, {"g_idx"}};
    case PackedKind::awq:
      return {{"qweight", "qzeros", "scales"}, {}};
    case PackedKind::packed_integers:
      parts = {{"weight_packed", "weight_scale"}, {"weight_shape", "weight_g_idx"}};
      break;
    case PackedKind::integers:
    case PackedKind::fp8:
      parts = {{layout.weight, layout.scale}, {}};
      break;
    case PackedKind::mxfp4:
      parts = {{"weight_packed", "weight_scale"}, {"weight_shape"}};
      break;
    case PackedKind::nvfp4:
      parts = {{"weight_packed", "weight_scale", "weight_global_scale"}, {"weight_shape"}};
      break;
    case PackedKind::mxfp4_experts:
      return {{"_blocks", "_scales"}, {}};
    case PackedKind::torchao:
      OSP_CHECK(false, "a layout of each tensor's own");
  }
  if (!layout.symmetric) parts.needed.push_back(layout.zero);
  // Scales and zero points of what osp does not round.
  if (layout.rounds_activations) {
    for (const char* name :
         {"input_scale", "input_zero_point", "input_global_scale", "activation_scale",
          "activation_scale_inv", "_weight_act_quant_scale", "_weight_act_quant_zero_point"}) {
      parts.optional.push_back(name);
    }
  }
  return parts;
}

std::string packed_text(const PackedLayout& layout) {
  std::string text = layout.program;
  const bool blocks = layout.kind == PackedKind::mxfp4 || layout.kind == PackedKind::nvfp4;
  if (layout.kind == PackedKind::mxfp4) text += ", MXFP4";
  if (layout.kind == PackedKind::nvfp4) text += ", NVFP4";
  if (layout.kind == PackedKind::fp8 && layout.program != "FP8") text += ", FP8";
  if (layout.kind == PackedKind::mxfp4_experts || layout.kind == PackedKind::torchao) return text;
  if (!blocks && layout.kind != PackedKind::fp8) text += fmt::format(", {} bits", layout.bits);
  if (blocks) {
    // The format says which numbers share a scale.
  } else if (layout.block_rows == 0) {
    text += ", one scale per tensor";
  } else if (layout.block_rows > 1) {
    text += fmt::format(", blocks of {} x {}", layout.block_rows, layout.group);
  } else {
    text += layout.group > 0 ? fmt::format(", groups of {}", layout.group) : ", one scale per row";
  }
  if (layout.act_order) text += ", act-order";
  const bool both = layout.rounds_activations && layout.rounds_cache;
  if (layout.rounds_activations || layout.rounds_cache) {
    text += fmt::format(" ({}, which it rounds too, {} not rounded here)",
                        both                        ? "activations and cache"
                        : layout.rounds_activations ? "activations"
                                                    : "the cache",
                        both || layout.rounds_activations ? "are" : "is");
  }
  return text;
}

}  // namespace osp
