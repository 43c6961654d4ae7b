#include "osp/export/gguf_codes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "osp/base/error.h"
#include "osp/formats/gguf_quantize.h"
#include "osp/formats/half.h"
#include "osp/quant/float_grid.h"

namespace osp {
namespace {

constexpr int64_t kBlock = 32;

// The codes that a type holds, if it holds any.
struct CodeType {
  GgufTensorType type;
  int bits;
  bool has_minimum;
};
constexpr std::array<CodeType, 5> kCodeTypes = {{{GgufTensorType::q4_0, 4, false},
                                                 {GgufTensorType::q4_1, 4, true},
                                                 {GgufTensorType::q5_0, 5, false},
                                                 {GgufTensorType::q5_1, 5, true},
                                                 {GgufTensorType::q8_0, 8, false}}};

const CodeType* find_code_type(GgufTensorType type) {
  const auto* found = std::ranges::find(kCodeTypes, type, &CodeType::type);
  return found == kCodeTypes.end() ? nullptr : found;
}

void store_half(float value, std::byte* out) {
  const uint16_t half = float_to_half(value);
  std::memcpy(out, &half, sizeof(half));
}

// The number that is added to a code in a file of minima, which stores numbers from 0.
int shift_of(const QuantizedLinear& layer) { return 1 << (layer.bits - 1); }

float minimum_of(const QuantizedLinear& layer, float scale, int zero) {
  return -scale * static_cast<float>(zero + shift_of(layer));
}

// One block of integers.
void pack_integers(const QuantizedLinear& layer, const CodeType& type, const int8_t* codes,
                   float scale, int zero, std::byte* out) {
  store_half(scale, out);
  out += 2;
  if (type.type == GgufTensorType::q8_0) {
    std::memcpy(out, codes, kBlock);
    return;
  }
  if (type.has_minimum) {
    store_half(minimum_of(layer, scale, zero), out);
    out += 2;
  }
  const int shift = type.has_minimum ? shift_of(layer) : 1 << (type.bits - 1);
  std::array<uint8_t, kBlock> low{};
  uint32_t fifth = 0;
  for (int i = 0; i < kBlock; ++i) {
    const int q = codes[i] + shift;
    low[static_cast<size_t>(i)] = static_cast<uint8_t>(q & 15);
    fifth |= static_cast<uint32_t>(q >> 4) << i;
  }
  if (type.bits == 5) {
    std::memcpy(out, &fifth, sizeof(fifth));
    out += sizeof(fifth);
  }
  gguf_pack_nibbles(low.data(), reinterpret_cast<uint8_t*>(out));
}

}  // namespace

std::string why_codes_do_not_fit(const QuantizedLinear& layer, GgufTensorType type) {
  if (layer.columns() % kBlock != 0) return fmt::format("has rows of {}", layer.columns());
  if (type == GgufTensorType::mxfp4) {
    if (layer.kind == NumberKind::mxfp4) return "";
    return layer.is_integer() ? "holds integers"
                              : fmt::format("holds {} numbers", number_kind_name(layer.kind));
  }
  if (!layer.is_integer()) return fmt::format("holds {} numbers", number_kind_name(layer.kind));
  const CodeType* const holds = find_code_type(type);
  if (holds == nullptr) {
    return fmt::format("holds integers, which {} does not", gguf_type_info(type).name);
  }
  if (!layer.symmetric() && !holds->has_minimum) return "has zero points";
  if (layer.bits > holds->bits) return fmt::format("has {} bits", layer.bits);
  if (layer.group % kBlock != 0) return fmt::format("has groups of {}", layer.group);
  return "";
}

std::optional<GgufTensorType> gguf_type_of_codes(NumberKind kind, int64_t bits, bool symmetric) {
  if (kind == NumberKind::mxfp4) return GgufTensorType::mxfp4;
  if (kind != NumberKind::integer) return std::nullopt;
  for (const CodeType& type : kCodeTypes) {
    if (bits <= type.bits && symmetric != type.has_minimum) return type.type;
  }
  return std::nullopt;
}

void pack_gguf_codes(const QuantizedLinear& layer, GgufTensorType type,
                     const std::vector<int64_t>& rows, std::span<std::byte> blocks) {
  const GgufTypeInfo& info = gguf_type_info(type);
  const at::Tensor codes = layer.codes.contiguous();
  const bool floats = type == GgufTensorType::mxfp4;
  const at::Tensor scale =
      floats ? e8m0_of_scales(layer.scale).contiguous() : layer.scale.contiguous();
  const at::Tensor zero = layer.symmetric() ? at::Tensor() : layer.zero.contiguous();
  const int64_t columns = layer.columns(), groups = layer.groups();
  const int64_t width = columns / groups;
  std::byte* out = blocks.data();
  for (const int64_t row : rows) {
    for (int64_t begin = 0; begin < columns; begin += kBlock, out += info.block_bytes) {
      const int8_t* const at_block = codes.const_data_ptr<int8_t>() + row * columns + begin;
      const int64_t group = row * groups + begin / width;
      if (floats) {
        std::array<uint8_t, kBlock> bits{};
        for (int i = 0; i < kBlock; ++i) bits[size_t(i)] = static_cast<uint8_t>(at_block[i] & 15);
        *out = static_cast<std::byte>(scale.const_data_ptr<uint8_t>()[group]);
        gguf_pack_nibbles(bits.data(), reinterpret_cast<uint8_t*>(out + 1));
        continue;
      }
      const int zero_point = zero.defined() ? zero.const_data_ptr<int8_t>()[group] : 0;
      pack_integers(layer, *find_code_type(type), at_block, scale.const_data_ptr<float>()[group],
                    zero_point, out);
    }
  }
}

std::optional<double> gguf_scale_rounding(const QuantizedLinear& layer, GgufTensorType type) {
  if (!layer.is_integer()) return 0.0;
  const at::Tensor scale = layer.scale.contiguous();
  const at::Tensor zero = layer.symmetric() ? at::Tensor() : layer.zero.contiguous();
  OSP_CHECK(find_code_type(type) != nullptr, "type {} holds no codes", int(type));
  const bool has_minimum = find_code_type(type)->has_minimum;
  double largest = 0;
  const auto add = [&](float value) {
    const float half = half_to_float(float_to_half(value));
    if (value != 0) {
      largest = std::max(largest, std::fabs((double{half} - double{value}) / double{value}));
    }
    return half;
  };
  for (int64_t i = 0; i < scale.numel(); ++i) {
    const float value = scale.const_data_ptr<float>()[i];
    const float half = add(value);
    if (!(half > 0) || !std::isfinite(half)) return std::nullopt;
    if (!has_minimum) continue;
    const int zero_point = zero.defined() ? zero.const_data_ptr<int8_t>()[i] : 0;
    if (!std::isfinite(add(minimum_of(layer, value, zero_point)))) return std::nullopt;
  }
  return largest;
}

}  // namespace osp
