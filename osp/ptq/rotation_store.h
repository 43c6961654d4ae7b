// Copies of a model's parameters on which rotations and scalings work.
//
// Tested by rotation_test.cpp, smooth_test.cpp and spinquant_test.cpp.
#pragma once

#include "osp/model/parameters.h"

namespace osp {

// The weights of a norm that reads the residual stream (not QK-norm).
bool is_residual_norm(const ParameterSpec& spec);
bool is_residual_norm_bias(const ParameterSpec& spec);

// A copy in fp64, for transforms that must be exact beyond fp32. The forward pass can run it;
// gradients are not copied.
ParameterStore copy_in_fp64(const ParameterStore& store);

// A copy in fp32 of the same configuration; masters are rounded.
ParameterStore copy_in_fp32(const ParameterStore& store);

// A copy whose head is a matrix of its own, in the same type.
ParameterStore with_untied_head(const ParameterStore& store);

}  // namespace osp
