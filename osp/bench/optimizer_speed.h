// How fast this machine steps an optimizer: the step alone, on the banks of a named model with
// random gradients, group by group.
//
// Tested by tests/python/test_bench_optim.py.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "osp/model/config.h"
#include "osp/model/parameters.h"
#include "osp/optim/config.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct TimedModel {
  ModelConfig config;
  Part part = kWhole;
};

// "demo", "50m", "125m": the models of osp bench train. "1.4b-layer": one block of
// recipes/osp-1.4b.toml. Error(usage) for other names.
TimedModel timed_model(const std::string& name);

struct GroupSpeed {
  std::string name = "";  // the optimizer group's
  const OptimizerRow* optimizer = nullptr;
  std::vector<std::array<int64_t, 3>> banks = {};  // count, rows, cols of each
  int64_t parameters = 0;
  int64_t bytes = 0;         // weights (fp32) and state of the optimizer
  double formula_bytes = 0;  // the same by formula, see optimizer_state_bytes
  // Time of a step: by the clock, and that of all threads' work, which other programs on the
  // machine disturb less. The median; where inverses or bases are renewed every few steps, the mean
  // of whole periods.
  double seconds = 0, cpu_seconds = 0;
};

struct OptimizerSpeed {
  std::vector<GroupSpeed> groups = {};
  double startup_seconds = 0;  // from the start of this process to the first step
  int64_t peak_memory_bytes = 0;
};

// Runs `steps` timed steps of every group after one that is not counted; of groups that renew
// something every optim.precondition_every steps, as many whole periods as hold `steps`, after one.
// K-FAC's factors are gathered in forward and backward passes, which are not run here. If `updates`
// names a file, writes `gradient.I` and `weight.I` [rows, cols] into it for the first matrix of
// every bank that Muon trains; the weight is the result of one step from zero at rate 1 without
// decay: minus the update.
OptimizerSpeed measure_optimizer_speed(const TimedModel& model, const OptimConfig& config,
                                       int64_t steps, const std::string& updates = "");

}  // namespace osp
