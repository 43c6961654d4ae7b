// The device of the tensors: the CPU, or a CUDA device whose library is loaded on demand.
//
// Tested by tests/python/test_train.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "osp/model/parameters.h"

namespace osp {

// "cpu" or "cuda" as a device. For "cuda", loads libtorch_cuda.so; Error(unsupported) if that or a
// device is missing.
at::Device open_device(const std::string& name);

// Moves every bank of a store to a device.
void move_banks(ParameterStore& store, const std::string& device);

}  // namespace osp
