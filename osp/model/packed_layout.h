// Which layout the weights of a folder have that another program quantized: what config.json's
// quantization_config says, and what it means for the tensors.
//
//   quant_method        format                tensors of a layer [out, in]
//   gptq                                      qweight [in / k, out], qzeros [groups, out / k],
//                                             scales [groups, out], g_idx [in]; k codes in an int32
//   awq                 version gemm          qweight [in, out / 8], qzeros [groups, out / 8],
//                                             scales [groups, out]
//   compressed-tensors  pack-quantized        weight_packed [out, words], weight_scale [out,
//                                             groups], weight_shape [2], weight_zero_point
//                                             [out / k, groups] ([out, groups] of blocks),
//                                             weight_g_idx [in]
//                       int-quantized,        weight I8 or F8_E4M3 [out, in], weight_scale by
//                       float-quantized,      tensor, row, group or block, weight_zero_point
//                       naive-quantized
//                       mxfp4-pack-quantized  weight_packed U8 [out, in / 2], weight_scale U8
//                                             [out, in / 32]
//                       nvfp4-pack-quantized  weight_packed U8 [out, in / 2], weight_scale F8_E4M3
//                                             [out, in / 16], weight_global_scale [1]
//   fp8                                       weight F8_E4M3, weight_scale_inv by blocks
//   mxfp4 (gpt-oss)                           of the experts of a block, see packed_experts.h
//   torchao                                   see packed_torchao.h
//
// Formats: the documents and code of GPTQModel, AutoAWQ, compressed-tensors and transformers.
//
// Tested by tests/python/test_packed_weights.py and tests/python/test_packed_floats.py.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// The output whose code stands at each place of an int32 of AWQ.
inline constexpr std::array<int64_t, 8> kAwqOutputs = {0, 2, 4, 6, 1, 3, 5, 7};

enum class PackedKind {
  gptq,
  awq,
  packed_integers,  // pack-quantized
  integers,         // one int8 for each number
  fp8,
  mxfp4,
  nvfp4,
  mxfp4_experts,  // gpt-oss
  torchao,        // as the metadata of the files say, tensor by tensor (packed_torchao.h)
};

struct PackedLayout {
  PackedKind kind = PackedKind::gptq;
  std::string program = "GPTQ";  // for descriptions
  int64_t bits = 4;
  int64_t group = 0;            // inputs with one scale; 0: all of a row
  int64_t block_rows = 1;       // outputs with one scale (integers, fp8); 0: all
  bool zeros_less_one = false;  // stored zero points are one too small (gptq version 1)
  bool symmetric = true;        // compressed-tensors: no zero points
  bool packed_zeros = true;     // pack-quantized: zero points are packed, too
  bool act_order = false;       // as the configuration says
  // What the program rounds besides; osp does not.
  bool rounds_activations = false;
  bool rounds_cache = false;
  // The endings of the tensors of fp8 and integers.
  std::string weight = "weight", scale = "weight_scale", zero = "weight_zero_point";
};

// The layout that a config.json names, nullopt without quantization_config. Error(unsupported)
// names the key of what osp does not read, Error(damaged) one that is missing or of another type.
std::optional<PackedLayout> packed_layout(const Json& config, const std::string& where);

// Takes the two sizes, rows and columns, of a block of numbers with one scale. Error(damaged),
// which begins with `where`, for anything but two whole numbers from 1 to `largest`.
void take_block(const Json& sizes, const std::string& where, int64_t largest, PackedLayout& layout);

// The endings of the tensors that together are NAME.weight; those that may be absent come last.
// A layer that has the first is packed; of fp8 and integers the first may be NAME.weight itself,
// in another type than plain weights.
struct PackedParts {
  std::vector<std::string> needed;
  std::vector<std::string> optional;
};
PackedParts packed_parts(const PackedLayout& layout);

// How the weights were rounded, for people and results: "GPTQ, 4 bits, groups of 128, act-order".
std::string packed_text(const PackedLayout& layout);

}  // namespace osp
