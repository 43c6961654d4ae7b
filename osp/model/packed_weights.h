// Weights of a few bits in folders that other programs quantized: their layout, by config.json's
// quantization_config, and codes as the fp32 numbers that they stand for.
//
//   quant_method        tensors of a layer [out, in]                   number
//   gptq                qweight [in / k, out], qzeros                  s (q − z), z = stored + 1
//                       [groups, out / k], scales [groups, out],       (checkpoint_format gptq_v2:
//                       g_idx [in]; k codes in an int32                z = stored)
//   awq (version gemm)  qweight [in, out / 8], qzeros                  s (q − z); the codes of 8
//                       [groups, out / 8], scales [groups, out]        columns stand as
//                                                                      0 2 4 6 1 3 5 7
//   compressed-tensors  weight_packed [out, words], weight_scale       s (q − z)
//   (pack-quantized)    [out, groups], weight_shape [2],
//                       weight_zero_point [out / k, groups],
//                       weight_g_idx [in]
//   mxfp4 (gpt-oss)     of the experts of a block, see                 e2m1 2^(e − 127)
//                       packed_experts.h
//
// Only weights: folders that also round activations or the cache are refused, since osp would
// compute something else. Formats: the documents and code of GPTQModel, AutoAWQ and
// compressed-tensors.
//
// Tested by tests/python/test_packed_weights.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/formats/safetensors.h"

namespace osp {

enum class PackedKind { gptq, awq, compressed_tensors, mxfp4 };

struct PackedLayout {
  PackedKind kind = PackedKind::gptq;
  int64_t bits = 4;
  int64_t group = 0;            // inputs with one scale; 0: all of a row
  bool zeros_less_one = false;  // stored zero points are one too small (gptq version 1)
  bool symmetric = true;        // compressed-tensors: no zero points
};

// The layout that a config.json names, nullopt without quantization_config. Error(unsupported)
// names the key of what osp does not read, Error(damaged) one that is missing or of another type.
std::optional<PackedLayout> packed_layout(const Json& config, const std::string& where);

// The endings of the tensors that together are NAME.weight; those that may be absent come last.
struct PackedParts {
  std::vector<std::string> needed;
  std::vector<std::string> optional;
};
PackedParts packed_parts(const PackedLayout& layout);

// The numbers [rows, columns] of a layer, whose parts `find` gives by their endings (null: absent).
// Error(damaged) with `where` and the part where a needed one is absent, for another type or shape,
// an index of a group that is none, and for scales that are not finite.
at::Tensor unpack_weight(const PackedLayout& layout, int64_t rows, int64_t columns,
                         const std::function<const TensorView*(const std::string&)>& find,
                         const std::string& where);

}  // namespace osp
