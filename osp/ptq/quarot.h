// QuaRot: norms are folded, R1 and R2 are random Hadamard matrices, R4 is an online Hadamard before
// the down projection (osp/ptq/rotation.h). Source: Ashkboos et al., "QuaRot", 2024.
//
// Tested by rotation_test.cpp.
#pragma once

#include <cstdint>

#include "osp/ptq/rotation.h"
#include "osp/ptq/transform.h"

namespace osp {

struct QuaRotOptions {
  uint64_t seed = 0;
  int64_t down_block = 0;      // of R4; 0: one
  int64_t residual_block = 0;  // of R1; 0: one
};

// Norms, R1 and R2 by random Hadamard matrices, R4. Errors: usage if a block does not divide the
// width or the inner size, unsupported for sizes without a Hadamard matrix.
RotationPlan quarot_plan(const ModelConfig& config, const QuaRotOptions& options = {});

extern const TransformRow kQuaRot;

}  // namespace osp
