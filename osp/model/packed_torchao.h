// Weights that torchao quantized, as its torchao.prototype.safetensors stores them and transformers
// saves them: a tensor of few bits NAME.weight becomes NAME._weight_qdata, NAME._weight_scale and
// NAME._weight_zero_point, and the file's metadata describe it under its own name,
//
//   {"_type": "Int8Tensor", "_data": {"block_size": [1, 64], …}, "_tensor_data_names": […]}
//
//   _type                     codes                  number
//   Int8Tensor                I8 [out, in]           s (q − z), a scale for block_size numbers
//   IntxUnpackedToInt8Tensor  I8 [out, in], 1-8 bit  the same
//   Float8Tensor              F8_E4M3 [out, in]      s q
//
// The four-bit types (Int4Tensor and its packed relatives) are refused by name: their order of
// codes is that of a kernel, and torchao itself cannot turn them back into numbers.
//
// Tested by tests/python/test_packed_torchao.py, against torchao's own numbers.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "osp/model/packed_layout.h"

namespace osp {

// The layout of a tensor by its entry in the metadata; none for a plain tensor and for one that
// the metadata do not name. Error(damaged) or Error(unsupported) begin with `where` and name the
// tensor.
std::optional<PackedLayout> torchao_layout(const std::map<std::string, std::string>& metadata,
                                           const std::string& tensor, const std::string& where);

}  // namespace osp
