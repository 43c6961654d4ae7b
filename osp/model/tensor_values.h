// Stored floating-point tensors as fp32 numbers.
//
// Tested by tests/python/test_model_dir.py and tests/python/test_packed_weights.py.
#pragma once

#include <string>

#include "osp/formats/safetensors.h"

namespace osp {

// True for the types of weights and scales that osp reads: F32, BF16 and F16.
bool is_read_as_fp32(const std::string& dtype);

// All numbers of such a tensor, in fp32; its bytes may lie at any address.
void copy_to_fp32(const TensorView& view, float* out);

}  // namespace osp
