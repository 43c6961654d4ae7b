// Copies of a store of parameters that rotations and scalings work on.
#pragma once

#include "osp/model/parameters.h"

namespace osp {

// The weights of a norm that reads the residual stream (not QK-norm).
bool is_residual_norm(const ParameterSpec& spec);
bool is_residual_norm_bias(const ParameterSpec& spec);

// The same parameters in fp64, for transforms that are to be exact beyond fp32. It can be run by
// the forward pass; gradients are not copied.
ParameterStore widened(const ParameterStore& store);

// Rounds the masters of `wide` into a new fp32 store of the same configuration.
ParameterStore narrowed(const ParameterStore& wide);

// The same model with the head as a matrix of its own, in the same type.
ParameterStore untied(const ParameterStore& store);

}  // namespace osp
