#include "osp/model/packed_torchao.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/json.h"

namespace osp {
namespace {

constexpr int64_t kLargestBlock = int64_t{1} << 24;

// The bits of a torch type by its name: "int4" has 4.
int64_t bits_of(const Json& dtype, const std::string& where) {
  const Json name = dtype.is_object() ? dtype.value("_data", Json()) : Json();
  const std::string text = name.is_string() ? name.get<std::string>() : "";
  if (text.size() == 4 && text.starts_with("int") && text[3] >= '1' && text[3] <= '8') {
    return text[3] - '0';
  }
  fail(ErrorCode::unsupported, "{}: target_dtype is {}; osp reads int1 to int8", where,
       dtype.dump().substr(0, 60));
}

}  // namespace

std::optional<PackedLayout> torchao_layout(const std::map<std::string, std::string>& metadata,
                                           const std::string& tensor, const std::string& where) {
  const auto entry = metadata.find(tensor);
  if (entry == metadata.end()) return std::nullopt;
  const std::string place = where + ": metadata of " + Json(tensor).dump(-1, ' ', true);
  const Json json = parse_json(entry->second, place);
  const Json type_value = json.is_object() ? json.value("_type", Json()) : Json();
  if (!type_value.is_string()) fail(ErrorCode::damaged, "{}: no text _type", place);
  const std::string type = type_value.get<std::string>();
  if (type == "Tensor") return std::nullopt;
  const bool is_float = type == "Float8Tensor", intx = type == "IntxUnpackedToInt8Tensor";
  if (!is_float && !intx && type != "Int8Tensor") {
    fail(ErrorCode::unsupported,
         "{}: _type is {}; osp reads Int8Tensor, IntxUnpackedToInt8Tensor and Float8Tensor of "
         "torchao, whose other types keep codes in the order of a kernel",
         place, Json(type).dump(-1, ' ', true));
  }
  const Json data = json.value("_data", Json());
  const Json names = json.value("_tensor_data_names", Json());
  if (!data.is_object() || !names.is_array()) {
    fail(ErrorCode::damaged, "{}: no object _data or no list _tensor_data_names", place);
  }
  PackedLayout layout{
      .kind = is_float ? PackedKind::fp8 : PackedKind::integers, .program = "torchao", .bits = 8};
  if (intx) layout.bits = bits_of(data.value("target_dtype", Json()), place);
  take_block(data.value("block_size", Json()), place + ": block_size", kLargestBlock, layout);
  layout.weight = "_weight_qdata";
  layout.scale = "_weight_scale";
  layout.zero = "_weight_zero_point";
  layout.symmetric = std::ranges::find(names, Json("zero_point")) == names.end();
  if (std::ranges::find(names, Json("act_pre_scale")) != names.end()) {
    fail(ErrorCode::unsupported,
         "{}: the layer's input is scaled (act_pre_scale), which osp does "
         "not compute",
         place);
  }
  for (const char* key : {"act_quant_kwargs", "activation_quantization"}) {
    if (!data.value(key, Json()).is_null()) layout.rounds_activations = true;
  }
  return layout;
}

}  // namespace osp
