// Numbers of FP8, MXFP4, NVFP4 and of int8 with a scale for many rows, in folders that other
// programs quantized: see packed_weights.h, which calls this.
//
// Tested by tests/python/test_packed_floats.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "osp/model/packed_layout.h"
#include "osp/model/packed_part.h"

namespace osp {

// The numbers [rows, columns]. Error(damaged) for a part that is missing or has another type or
// shape, for scales and codes that are NaN, and for blocks that do not divide the columns (MXFP4,
// NVFP4).
at::Tensor unpack_floats(const PackedLayout& layout, int64_t rows, int64_t columns,
                         const FindPart& find, const std::string& where);

}  // namespace osp
