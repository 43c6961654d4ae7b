// Rotations as a transform: the part that the rows of QuaRot, SpinQuant and the FFN Hadamard share.
//
// Tested by quantize_block_test.cpp and mean_offset_test.cpp.
#pragma once

#include "osp/ptq/rotation.h"
#include "osp/ptq/transform.h"

namespace osp {

// Applies the plan's rotations part by part (rotate_model of osp/ptq/rotation.h), unchecked.
PartTransform rotation_transform(const RotationPlan& plan);

// Checks the plan on a few tokens (check_rotations of osp/ptq/rotation_check.h, with its errors),
// then returns rotation_transform(plan).
PartTransform checked_rotation_transform(const TransformInputs& inputs, const RotationPlan& plan);

}  // namespace osp
