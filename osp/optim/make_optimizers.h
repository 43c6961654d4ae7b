// From a store and its routing to the optimizers that train it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "osp/optim/config.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"

namespace osp {

// One optimizer per group, in the order of routing.groups (a frozen group's does nothing and has no
// state). The store must have been made with routing.group_of and gradients, and must outlive them.
std::vector<std::unique_ptr<Optimizer>> make_optimizers(ParameterStore& store,
                                                        const Routing& routing,
                                                        const OptimConfig& config);

// Bytes of optimizer state that a parameter of this shape has in that group, without counters.
double optimizer_state_bytes(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                             const OptimConfig& config);

}  // namespace osp
