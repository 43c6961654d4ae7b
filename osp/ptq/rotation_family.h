// What rotations need to know of a model family: in which basis each side of a matrix is, and which
// rotations are exact.
#pragma once

#include <string>

#include "osp/ptq/rotation.h"

namespace osp {

// The basis of the numbers on one side of a matrix.
enum class Basis { fixed, residual, heads, inner };

struct Sides {
  Basis input = Basis::fixed;   // columns; a table's rows are states, too
  Basis output = Basis::fixed;  // rows, and the bias
  std::string norm = "";        // the norm whose weights scale the columns, "" if none
};

// Of a weight or of the bias that belongs to one.
Sides sides_of(const ParameterStore& store, const ParameterSpec& spec);

// Error(unsupported) naming the rotation and the reason where the plan would change a model of this
// configuration: R1 with norms that follow the blocks (OLMo-2) or, unless it keeps the mean, that
// subtract one (LayerNorm); R1 with matrices that are not in the table of rotation_family.cpp; R2
// with clipped values (OLMo). Reads no tensor of the model.
void check_rotations_exact(const ModelConfig& config, const RotationPlan& plan);

}  // namespace osp
