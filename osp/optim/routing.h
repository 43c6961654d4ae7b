// Routing: which parameter is trained by which optimizer, with what rate, decay and clipping.
//
// Rules come from the recipe: optim.name gives one rule per kind of parameter, optim.routes gives
// exceptions by name. A parameter named by one exception follows it; one named by two, or by none
// where there is no rule for its kind either, is an error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/parameters.h"
#include "osp/optim/config.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct Routing {
  std::vector<OptimizerGroup> groups;  // only those that have members, in order of first use
  std::vector<int64_t> group_of;       // per parameter, for StoreOptions::group
  std::vector<std::string> rule_of;    // per parameter, the rule that placed it
};

// Places every parameter. `head_size` is needed for per_head alone. Error(usage) that names the
// parameter and the rules if one matches none or two, if a rule matches nothing, if an optimizer
// cannot train that shape, or if its options contradict each other.
Routing route_parameters(const std::vector<ParameterSpec>& specs, const OptimConfig& config,
                         int64_t head_size = 0);

// True if `name` matches `pattern`, in which every * stands for any run of characters.
bool glob_match(const std::string& pattern, const std::string& name);

// One line per (name with layer numbers as *, shape, group): count, optimizer, rate, decay, scale.
std::string routing_table(const std::vector<ParameterSpec>& specs, const Routing& routing,
                          const OptimConfig& config);
// The lines of routing_table() as an array of objects {pattern, shape, count, group, optimizer, lr,
// weight_decay, clip, update_scale, rule}.
Json routing_json(const std::vector<ParameterSpec>& specs, const Routing& routing,
                  const OptimConfig& config);

}  // namespace osp
