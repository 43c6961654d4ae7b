// The table of optimizers, and what is asked of it: names for recipes, construction for a store and
// its routing, bytes of state, scales of updates.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "osp/optim/config.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"

namespace osp {

// All rows, in the order in which lists of names show them.
std::span<const OptimizerRow* const> optimizer_rows();

// The row of that name; null if there is none.
const OptimizerRow* find_optimizer(const std::string& name);

// The row of a name that is known to exist ("adam").
const OptimizerRow& optimizer_row(const std::string& name);

// Names of all rows: the optimizers that optim.routes may name.
std::vector<std::string> optimizer_names();

// Values of optim.name that choose an optimizer: "osp" and the rows that cover something.
std::vector<std::string> recipe_optimizer_names();

// The optimizer of the hidden matrices under such a value of optim.name ("osp" is Muon), and the
// parameters that it takes.
struct RecipeOptimizer {
  const OptimizerRow* row;
  Coverage coverage;
};
RecipeOptimizer recipe_optimizer(const std::string& name);

// One optimizer per group, in the order of routing.groups (a frozen group's does nothing and has no
// state). The store must have been made with routing.group_of and gradients, and must outlive them.
std::vector<std::unique_ptr<Optimizer>> make_optimizers(ParameterStore& store,
                                                        const Routing& routing,
                                                        const OptimConfig& config);

// Bytes of optimizer state that a parameter of this shape has in that group, without counters.
double optimizer_state_bytes(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                             const OptimConfig& config);

// "adam, muon or adafactor": those of which several ranks can share the work
// (OptimizerRow::division).
std::string divisible_names();

// Operations of an update of a parameter of this shape in that group: see OptimizerRow.
double update_flops(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                    const OptimConfig& config);

// Factor of an update for a parameter of this shape in that group: see OptimizerRow.
double update_scale(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                    const OptimConfig& config);

}  // namespace osp
