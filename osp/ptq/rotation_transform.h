// Rotations as a transform: the part that the rows of QuaRot, SpinQuant and the FFN Hadamard share.
#pragma once

#include "osp/ptq/rotation.h"
#include "osp/ptq/transform.h"

namespace osp {

// Applies the plan's rotations part by part (rotate_model of osp/ptq/rotation.h), unchecked.
PartTransform rotation_transform(const RotationPlan& plan);

// The same after check_rotations (osp/ptq/rotation_check.h) on a few tokens, whose errors it has.
PartTransform checked_rotation_transform(const TransformInputs& inputs, const RotationPlan& plan);

}  // namespace osp
