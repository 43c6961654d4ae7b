// The paper's "+ FFN Hadamard": R4 of osp/ptq/rotation.h alone, an online Hadamard before the down
// projection and its inverse in the weights.
//
// Tested by rotation_test.cpp.
#pragma once

#include <cstdint>

#include "osp/ptq/rotation.h"
#include "osp/ptq/transform.h"

namespace osp {

// Errors: usage if the block does not divide the inner size, unsupported for sizes without a
// Hadamard matrix.
RotationPlan ffn_hadamard_plan(const ModelConfig& config, int64_t down_block = 0);

extern const TransformRow kFfnHadamard;

}  // namespace osp
