// QuaRot: norms are folded, R1 and R2 are random Hadamard matrices, R4 is an online Hadamard before
// the down projection (osp/ptq/rotation.h). Where norms stand behind the branches (OLMo 2, Gemma,
// GLM-4) R1 would change the model; R2 and R4 alone are taken. Source: Ashkboos et al., "QuaRot",
// 2024.
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

// Norms, R1 and R2 by random Hadamard matrices, R4; without norms and R1 where turns_residual() is
// false. Errors: usage if a block does not divide the width or the inner size, and for blocks of R1
// where there is none, unsupported for sizes without a Hadamard matrix.
RotationPlan quarot_plan(const ModelConfig& config, const QuaRotOptions& options = {});

extern const TransformRow kQuaRot;

}  // namespace osp
