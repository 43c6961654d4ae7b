// Rotations of a model family: in which basis each side of a matrix is, and which
// rotations are exact.
//
// Tested by rotation_test.cpp.
#pragma once

#include <optional>

#include "osp/ptq/rotation.h"

namespace osp {

// The basis of the numbers on one side of a matrix.
enum class Basis { fixed, residual, heads, inner };

struct Sides {
  Basis input = Basis::fixed;   // columns; a table's rows are states, too
  Basis output = Basis::fixed;  // rows, and the bias
  // The norm of the same block (or outside of the blocks) whose weights scale the columns.
  std::optional<ParameterRole> norm = {};
};

// The sides of a role's weight, and of its bias.
Sides sides_of(const ModelConfig& config, ParameterRole role);

// False where norms stand behind the branches, whose weights per channel R1 cannot pass.
bool turns_residual(const ModelConfig& config);

// Error(unsupported) naming the rotation and the reason where the plan would change a model of this
// configuration: R1 with norms that follow the blocks (OLMo-2) or, unless it keeps the mean, that
// subtract one (LayerNorm); R2 with clipped values (OLMo). Reads no tensor of the model.
void check_rotations_exact(const ModelConfig& config, const RotationPlan& plan);

}  // namespace osp
