// Weights of a few bits in folders that other programs quantized (packed_layout.h), as the fp32
// numbers that their codes stand for, and integers also as codes:
//
//   gptq, awq,          s (q − z), with z = stored + 1 in gptq's version 1; the codes of eight
//   compressed-tensors  columns of an int32 of AWQ stand as 0 2 4 6 1 3 5 7
//   fp8                 s c, c in E4M3, one s for a tensor, a row, a group or a block
//   mxfp4               s c, c in E2M1, s = 2^(e − 127)
//   nvfp4               bf16(c (s / g)), c in E2M1, s in E4M3, g in fp32
//   mxfp4 (gpt-oss)     see packed_experts.h
//
// Products are exact or rounded once, to fp32.
//
// Tested by tests/python/test_packed_weights.py and tests/python/test_packed_floats.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>

#include "osp/model/packed_layout.h"
#include "osp/model/packed_part.h"

namespace osp {

// Integers of a layer: weight[o, i] = scale[o, g] (code[o, i] − zero[o, g]) with g = i / group, or
// column_group[i] where it is defined.
struct PackedCodes {
  at::Tensor codes;         // int8 [out, in], from −2^(bits − 1) on
  at::Tensor scale;         // fp32 [out, groups]
  at::Tensor zero;          // int8 [out, groups]
  at::Tensor column_group;  // int32 [in], act-order; undefined: in order
  int64_t bits = 4;
  int64_t group = 0;  // 0: all columns
};

// The codes [rows, columns] of a layer, whose parts `find` gives by their endings; none for
// floating-point numbers and for integers with one scale for several rows. Error(damaged) with
// `where` and the part where a needed one is absent, for another type or shape, an index of a group
// that is none, and for scales that are not finite.
std::optional<PackedCodes> unpack_codes_of(const PackedLayout& layout, int64_t rows,
                                           int64_t columns, const FindPart& find,
                                           const std::string& where);

// The numbers [rows, columns] of a layer. Errors the same, and Error(damaged) for a number that is
// not finite.
at::Tensor unpack_weight(const PackedLayout& layout, int64_t rows, int64_t columns,
                         const FindPart& find, const std::string& where);

}  // namespace osp
