#include "osp/ptq/quantized_model_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/model/hf_config.h"
#include "osp/model/hf_family.h"
#include "osp/ptq/quantized_model_tensors.h"
#include "osp/quant/float_grid.h"

namespace osp {
namespace {

// Version 2 has groups or offsets of activations, which osp 1 would pass over; version 3 floating-
// point numbers; version 4 tables of integers. Other folders are written as version 1.
constexpr int64_t kInfoVersion = 4;
constexpr const char* kInfo = "osp_quantization";
constexpr const char* kCompressed = "quantization_config";
constexpr const char* kHiddenArchitecture = "OspQuantizedForCausalLM";
constexpr const char* kHiddenType = "osp_quantized";

constexpr std::array<std::pair<TapPoint, const char*>, 4> kPointNames = {{
    {TapPoint::attention_input, "attention_input"},
    {TapPoint::attention_output, "attention_output"},
    {TapPoint::mlp_input, "mlp_input"},
    {TapPoint::mlp_product, "mlp_product"},
}};

TapPoint parse_point(const std::string& text, const std::string& where) {
  for (const auto& [point, name] : kPointNames) {
    if (text == name) return point;
  }
  fail(ErrorCode::damaged, "{}: unknown point {}", where, json_text(Json(text)));
}

// QuantizationArgs: integers of this width.
Json integers(int64_t bits, bool symmetric, const std::string& strategy, int64_t group,
              bool dynamic) {
  Json json;
  json["num_bits"] = bits;
  json["type"] = "int";
  json["symmetric"] = symmetric;
  json["strategy"] = strategy;
  json["group_size"] = group > 0 ? Json(group) : Json(nullptr);
  json["dynamic"] = dynamic;
  return json;
}

// QuantizationArgs: floating-point numbers, whose blocks and scales the format gives; `strategy` is
// that of FP8.
Json floats(NumberKind kind, const Json& dynamic, const std::string& strategy) {
  Json json = integers(NumberFormat(kind).bits, true, strategy, block_size(kind), false);
  json["type"] = "float";
  json["dynamic"] = dynamic;
  if (kind == NumberKind::mxfp4) {
    json["strategy"] = "group";
    json["scale_dtype"] = "torch.uint8";
  } else if (kind == NumberKind::nvfp4) {
    json["strategy"] = "tensor_group";
    json["scale_dtype"] = "torch.float8_e4m3fn";
  }
  return json;
}

// The layout of weights of these formats in compressed-tensors' words.
std::string layout_name(NumberKind kind) {
  switch (kind) {
    case NumberKind::integer:
      return "pack-quantized";
    case NumberKind::mxfp4:
      return "mxfp4-pack-quantized";
    case NumberKind::nvfp4:
      return "nvfp4-pack-quantized";
    case NumberKind::fp8:
      return "float-quantized";
  }
  OSP_CHECK(false, "unknown kind of numbers {}", static_cast<int>(kind));
}

// A block of each kind: without experts, with experts.
std::vector<int64_t> kinds_of_block(const ModelConfig& model) {
  std::vector<int64_t> kinds;
  for (const bool routes : {false, true}) {
    for (int64_t layer = 0; layer < model.layers; ++layer) {
      if (model.routes(layer) != routes) continue;
      kinds.push_back(layer);
      break;
    }
  }
  return kinds;
}

// Modules of a block that read `point`, in the names of `family` (the model's as it is stored),
// each once: "self_attn.q_proj|self_attn.k_proj"; those of all experts are
// "mlp.experts.[0-9]+.gate_proj|mlp.experts.[0-9]+.up_proj".
std::string module_names(const ModelConfig& family, TapPoint point, int64_t layer) {
  const std::string block = fmt::format("layers.{}.", layer);
  std::vector<std::string> names;
  for (const ParameterSpec& spec : parameter_specs(family)) {
    if (spec.layer != layer || spec.kind != ParameterKind::matrix || spec.expert > 0) continue;
    if (input_point(spec.role) != point) continue;
    std::string name = stored_name(family, spec.name);
    name = name.substr(name.find(block) + block.size());
    name = name.substr(0, name.rfind('.'));
    if (spec.expert == 0) {
      const std::string first = ".experts.0.";
      name.replace(name.find(first), first.size(), ".experts.[0-9]+.");
    }
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return fmt::format("{}", fmt::join(names, "|"));
}

// One config group: layers whose names end alike and that read `columns` numbers.
Json layer_group(const QuantizedModelInfo& info, const std::string& names, int64_t columns,
                 const Json& inputs) {
  Json json;
  json["targets"] = Json::array({"re:.*(" + names + ")$"});
  const int64_t group = info.grid.group, bits = info.bits.weights.bits;
  if (!info.grid.is_integer()) {
    json["weights"] = floats(info.grid.kind, false, "channel");
  } else if (info.grid.symmetric) {
    json["weights"] = integers(bits, true, group > 0 ? "group" : "channel", group, false);
  } else {
    json["weights"] = integers(bits, false, "block", 0, false);
    json["weights"]["block_structure"] = Json::array({1, group > 0 ? group : columns});
  }
  json["input_activations"] = inputs;
  json["output_activations"] = nullptr;
  json["format"] = layout_name(info.grid.kind);
  return json;
}

// The input of the layers at `point` in compressed-tensors' words.
Json input_scheme(const QuantizedModelInfo& info, TapPoint point, int64_t layer,
                  const ModelConfig& model) {
  if (!info.bits.quantizes_activations()) return nullptr;
  // transformers joins the sequences of a batch in front of OPT's MLP, and strategy "token" would
  // take the tokens for one; a group of all channels means the same and is read right.
  const bool joined = model.family == "OPTForCausalLM" && point != TapPoint::attention_input;
  const int64_t bits = info.bits.activations.bits;
  const bool is_static = info.scales.contains({point, 0});
  if (info.bits.activations.is_float()) {
    const NumberKind kind = info.bits.activations.kind;
    if (kind == NumberKind::nvfp4 && is_static) return floats(kind, "local", "");
    Json json = floats(kind, !is_static, is_static ? "tensor" : joined ? "group" : "token");
    if (json["strategy"] == "group" && kind == NumberKind::fp8) {
      json["group_size"] = columns_at(model, point, layer);
    }
    return json;
  }
  if (is_static) return integers(bits, false, "tensor", 0, false);
  const bool down_grouped = point == TapPoint::mlp_product && info.groups.down > 0;
  if (point == TapPoint::attention_output || info.groups.inputs > 0 || down_grouped) {
    return integers(bits, false, "group", activation_group(info.groups, point, model), true);
  }
  if (joined) return integers(bits, false, "group", columns_at(model, point, layer), true);
  return integers(bits, false, "token", 0, true);
}

// "group" with the head size: the dynamic "token" strategy pools over time, which is not causal.
Json cache_scheme(const QuantizedModelInfo& info, const ModelConfig& model) {
  const NumberFormat& format = info.bits.kv_cache;
  if (!format.quantizes()) return nullptr;
  if (format.is_integer()) return integers(format.bits, false, "group", model.head_size, true);
  Json json = floats(format.kind, true, "group");
  if (format.kind == NumberKind::fp8) json["group_size"] = model.head_size;
  return json;
}

Json hadamard_scheme(const Json& apply, int64_t block) {
  Json json;
  json["type"] = "hadamard";
  json["apply"] = apply;
  if (block > 0) json["head_dim"] = block;
  return json;
}

Json transform_config(const QuantizedModelInfo& info, const ModelConfig& model) {
  Json groups = Json::object();
  if (info.online.query_key_hadamard && info.bits.turns_keys()) {
    Json apply = Json::array();
    for (const char* location : {"q_attn", "k_cache"}) {
      apply.push_back(
          {{"targets", Json::array({"re:.*(self_attn|attention)$"})}, {"location", location}});
    }
    groups["R3"] = hadamard_scheme(apply, model.head_size);
  }
  if (info.online.down_hadamard) {
    std::vector<std::string> names;
    for (const int64_t layer : kinds_of_block(model)) {
      names.push_back(module_names(stored_config(model), TapPoint::mlp_product, layer));
    }
    const Json input = {
        {"targets", Json::array({fmt::format("re:.*({})$", fmt::join(names, "|"))})},
        {"location", "input"}};
    groups["R4"] = hadamard_scheme(Json::array({input}), info.online.down_block);
  }
  return {{"config_groups", groups}};
}

// The grid of a floating-point format has nothing to choose.
void check_float_info(const QuantizedModelInfo& info, const std::string& place) {
  if (info.grid.is_integer()) return;
  const std::string name = info.bits.weights.text();
  if (info.grid.group != block_size(info.grid.kind)) {
    fail(ErrorCode::damaged, "{}: groups of {} with {} weights, whose blocks have {} columns",
         place, info.grid.group, name, block_size(info.grid.kind));
  }
  if (!info.grid.symmetric) {
    fail(ErrorCode::damaged, "{}: zero points with {} weights, which have none", place, name);
  }
}

}  // namespace

std::string why_osp_alone(const QuantizedModelInfo& info, const ModelConfig& model) {
  if (info.online.down_hadamard) {
    return "its down projections need a Hadamard transform of their input while it runs";
  }
  if (info.bits.turns_keys()) {
    return "its queries and keys are turned by a Hadamard matrix before the keys are quantized";
  }
  if (info.bits.kv_cache.kind == NumberKind::nvfp4) {
    return "every key and value has an NVFP4 scale of its own above those of its blocks";
  }
  const Family* family = find_family(model.family);
  const bool neighbours = family != nullptr && family->layout.neighbour_pairs;
  if (info.bits.kv_cache.kind == NumberKind::mxfp4 && neighbours &&
      model.head_size > block_size(NumberKind::mxfp4)) {
    return "the channels of its keys stand in another order elsewhere, and share scales of MXFP4 "
           "with others there";
  }
  if (info.bits.activations.kind == NumberKind::nvfp4 && info.scales.empty()) {
    return "every token of its activations has an NVFP4 scale of its own above those of its blocks "
           "(with --activation-scales per-tensor one constant serves all tokens)";
  }
  if (info.bits.quantizes_activations() && info.clips.activations != 1.0) {
    return "its activation grids cover a part of the range";
  }
  if (info.bits.quantizes_activations() && info.mean_offset != MeanOffset::none) {
    return "offsets are subtracted from its activations before they are rounded";
  }
  if (model.has_experts()) {
    return "each of its experts is quantized by itself, and transformers has the experts of a "
           "block in one tensor";
  }
  if (has_integers(info.tables)) {
    return "its embedding and head are integers (with --tables bf16 other programs read them)";
  }
  if (architecture_name(model) == "OspForCausalLM") return "its architecture is osp's own";
  return "";
}

Json compressed_tensors_config(const QuantizedModelInfo& info, const ModelConfig& model) {
  Json json;
  json["quant_method"] = "compressed-tensors";
  json["format"] = layout_name(info.grid.kind);
  json["quantization_status"] =
      why_osp_alone(info, model).empty() ? "compressed" : "this folder runs in osp alone";
  const ModelConfig named = stored_config(model);
  Json& groups = json["config_groups"] = Json::object();
  const auto add_group = [&](TapPoint point, int64_t layer) {
    groups[fmt::format("group_{}", groups.size())] =
        layer_group(info, module_names(named, point, layer), columns_at(model, point, layer),
                    input_scheme(info, point, layer, model));
  };
  add_group(TapPoint::attention_input, 0);
  add_group(TapPoint::attention_output, 0);
  for (const int64_t layer : kinds_of_block(model)) {
    add_group(TapPoint::mlp_input, layer);
    add_group(TapPoint::mlp_product, layer);
  }
  json["kv_cache_scheme"] = cache_scheme(info, model);
  const std::string head = stored_name(named, parameter_name(ParameterRole::head));
  json["ignore"] = Json::array({head.substr(0, head.rfind('.'))});
  const Json transforms = transform_config(info, model);
  if (!transforms["config_groups"].empty()) json["transform_config"] = transforms;
  return json;
}

int64_t columns_at(const ModelConfig& model, TapPoint point, int64_t layer) {
  if (point == TapPoint::attention_output) return model.heads * model.head_size;
  return point == TapPoint::mlp_product ? model.inner_of(layer) : model.width;
}

std::string input_name(TapPoint point) {
  for (const auto& [known, name] : kPointNames) {
    if (known == point) return name;
  }
  OSP_CHECK(false, "no linear layer reads this point");
}

Json activation_scales_json(const ActivationScales& scales) {
  Json list = Json::array();
  for (const auto& [place, scale] : scales) {
    list.push_back({{"input", input_name(place.first)},
                    {"layer", place.second},
                    {"scale", scale.scale},
                    {"zero", scale.zero}});
  }
  return list;
}

ActivationScales parse_activation_scales(const Json& json, const std::string& where) {
  if (!json.is_array()) fail(ErrorCode::damaged, "{}: static scales are no list", where);
  ActivationScales scales;
  for (const Json& entry : json) {
    const TapPoint point = parse_point(json_string(entry, "input", where), where);
    const StaticScale scale{json_number(entry, "scale", where), json_number(entry, "zero", where)};
    if (!(scale.scale > 0.0)) fail(ErrorCode::damaged, "{}: a scale of {}", where, scale.scale);
    scales[{point, json_int(entry, "layer", where)}] = scale;
  }
  return scales;
}

void add_quantization(Json& config, const QuantizedModelInfo& info, const ModelConfig& model) {
  config[kCompressed] = compressed_tensors_config(info, model);
  config[kInfo] = quantization_info_json(info);
  const std::string reason = why_osp_alone(info, model);
  if (reason.empty()) return;
  config[kInfo]["osp_alone"] = reason;
  // Not the model type: transformers would take an object with a "model_type" for the model's own.
  config[kInfo]["architecture"] = config["architectures"][0];
  config["architectures"] = Json::array({kHiddenArchitecture});
  config["model_type"] = kHiddenType;
}

Json without_quantization(Json config, const std::string& where) {
  if (!config.is_object() || !config.contains(kInfo)) {
    fail(ErrorCode::damaged, "{}: no key {}", where, kInfo);
  }
  const Json info = config[kInfo];
  config.erase(kCompressed);
  config.erase(kInfo);
  if (config.value("model_type", Json()) == kHiddenType) {
    const std::string place = where + ": " + kInfo;
    const std::string architecture = json_string(info, "architecture", place);
    const Family* family = find_family(architecture);
    if (family == nullptr) {
      fail(ErrorCode::unsupported, "{}: architecture {} is not supported; osp reads {}", place,
           Json(architecture).dump(-1, ' ', true), supported_architectures());
    }
    config["architectures"] = Json::array({architecture});
    config["model_type"] = family->model_type;
  }
  return config;
}

Json quantization_info_json(const QuantizedModelInfo& info) {
  Json json;
  const bool has_offsets = info.mean_offset != MeanOffset::none;
  const bool has_tables = has_integers(info.tables);
  json["version"] = has_tables                         ? 4
                    : info.bits.any_float()            ? 3
                    : info.groups.any() || has_offsets ? 2
                                                       : 1;
  json["method"] = info.method;
  json["profile"] = info.profile;
  json["bits"] = info.bits.text();
  json["group"] = info.grid.group;
  json["symmetric"] = info.grid.symmetric;
  json["clipping_search"] = info.grid.clipping_search;
  json["fp16_scales"] = info.grid.fp16_scales;
  json["query_key_hadamard"] = info.online.query_key_hadamard;
  json["down_hadamard"] = info.online.down_hadamard;
  json["down_block"] = info.online.down_block;
  json["activation_clip"] = info.clips.activations;
  json["cache_clip"] = info.clips.cache;
  if (info.groups.any()) {
    json["activation_group"] = info.groups.inputs;
    json["down_group"] = info.groups.down;
  }
  if (has_offsets) json["mean_offset"] = mean_offset_name(info.mean_offset);
  if (has_tables) json["tables"] = table_type_name(info.tables);
  json["static_scales"] = activation_scales_json(info.scales);
  if (!info.rounded_before.empty()) json["rounded_before"] = info.rounded_before;
  return json;
}

std::string quantization_text(const QuantizedModelInfo& info) {
  const bool integer = info.grid.is_integer();
  std::string text = fmt::format("osp quantize, {}, {}", info.method, info.bits.weights.text());
  if (integer) {
    text += info.grid.group > 0 ? fmt::format(" bits, groups of {}", info.grid.group)
                                : " bits, one scale per row";
  }
  if (!info.rounded_before.empty()) text += "; before that " + info.rounded_before;
  return text;
}

QuantizedModelInfo parse_quantization_info(const Json& json, const std::string& where) {
  const std::string place = where + ": osp_quantization";
  if (!json.is_object()) fail(ErrorCode::damaged, "{}: expected an object", place);
  // Check the version before anything else is read.
  const int64_t version = json_int(json, "version", place);
  if (version < 1 || version > kInfoVersion) {
    fail(ErrorCode::unsupported, "{}: version {}, this osp reads 1 to {}", place, version,
         kInfoVersion);
  }
  QuantizedModelInfo info;
  // Method, bits and the grid of the weights.
  info.method = json_string(json, "method", place);
  info.profile = json_string(json, "profile", place);
  try {
    info.bits = parse_bits(json_string(json, "bits", place));
  } catch (const Error& error) {
    fail(ErrorCode::damaged, "{}: {}", place, error.what());
  }
  info.grid = {.bits = info.bits.weights.bits,
               .group = json_int(json, "group", place),
               .symmetric = json_bool(json, "symmetric", place),
               .clipping_search = json_bool(json, "clipping_search", place),
               .fp16_scales = json_bool(json, "fp16_scales", place),
               .kind = info.bits.weights.kind};
  check_float_info(info, place);
  // Online Hadamard transforms and clips, which act while the model runs.
  info.online = {.query_key_hadamard = json_bool(json, "query_key_hadamard", place),
                 .down_hadamard = json_bool(json, "down_hadamard", place),
                 .down_block = json_int(json, "down_block", place)};
  info.clips = {json_number(json, "activation_clip", place),
                json_number(json, "cache_clip", place)};
  const auto is_ratio = [](double clip) { return clip > 0.0 && clip <= 1.0; };
  if (!is_ratio(info.clips.activations) || !is_ratio(info.clips.cache)) {
    fail(ErrorCode::damaged, "{}: clips of {} and {}, expected parts of 1", place,
         info.clips.activations, info.clips.cache);
  }
  if (info.grid.group < 0 || info.online.down_block < 0 || !info.bits.quantizes_weights()) {
    fail(ErrorCode::damaged, "{}: a negative group or weights of 16 bits", place);
  }
  // Keys of later versions: groups, offsets and tables.
  if (json.contains("activation_group")) {
    info.groups = {json_int(json, "activation_group", place), json_int(json, "down_group", place)};
  }
  if (info.groups.inputs < 0 || info.groups.down < 0) {
    fail(ErrorCode::damaged, "{}: a negative group of activations", place);
  }
  if (json.contains("mean_offset")) {
    try {
      info.mean_offset = parse_mean_offset(json_string(json, "mean_offset", place));
    } catch (const Error& error) {
      fail(ErrorCode::damaged, "{}: {}", place, error.what());
    }
  }
  if (json.contains("tables")) {
    try {
      info.tables = parse_table_type(json_string(json, "tables", place));
    } catch (const Error& error) {
      fail(ErrorCode::damaged, "{}: {}", place, error.what());
    }
  }
  if (json.contains("rounded_before")) {
    info.rounded_before = json_string(json, "rounded_before", place);
  }
  // Scales that calibration found.
  if (!json.contains("static_scales")) fail(ErrorCode::damaged, "{}: no static_scales", place);
  info.scales = parse_activation_scales(json["static_scales"], place);
  if (!info.scales.empty() && info.bits.activations.kind == NumberKind::mxfp4) {
    fail(ErrorCode::damaged, "{}: static scales with mxfp4 activations, which have none", place);
  }
  return info;
}

}  // namespace osp
