// Arithmetic and memory of a run, computed from the recipe alone.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "osp/base/json.h"
#include "osp/optim/routing.h"
#include "osp/train/config.h"

namespace osp {

// Floating-point operations of the model for one token, forward and backward:
//   6 · (weights of every matrix that multiplies a state: blocks, EmbProj, head; not the
//   embedding's lookup) + 6 · L · H · K · T  (attention: 2 products, 2 operations, 3 passes, half
//   of it masked).
// Recomputation and optimizer work do not count: this is the numerator of mfu.
double model_flops_per_token(const ModelConfig& model);

// Rate of a large product in the precision of training, in FLOP/s: the best of all that fit into
// half a second (at least six), so that a short load by another process does not matter.
double measured_flops_per_s(const std::string& precision, const std::string& device);

// The denominator of mfu: the rate in the recipe, else the result of `measure`. A measured peak
// that training exceeds was taken on a busy machine: it is measured again, and never below the rate
// that training reached.
class PeakRate {
 public:
  // `given_flops_per_s`: 0 to measure.
  PeakRate(double given_flops_per_s, std::function<double()> measure);
  // `flops_per_s` as a share of the peak: at most 1 of a measured one.
  double share(double flops_per_s);

 private:
  std::function<double()> measure_;  // empty for a given peak
  double flops_per_s_;
};

// Scalars of one parameter.
double count(const ParameterSpec& spec);

// Bytes of a process that trains, before any weight: one of several ranks runs inside Python.
double program_bytes(int64_t ranks);

// Estimated bytes of a run on a CPU, within a tenth of the peak: the program and its libraries,
// weights (fp32, and bf16 copies), gradients, optimizer state, sums of gradients that wait for
// those of other groups (GroupSums), what is received from other ranks at a time, what the
// backward pass of a micro-batch keeps, what comes and goes meanwhile, and the copy that a
// background save makes. With several ranks those of the one that owns most.
struct MemoryEstimate {
  double program = 0;
  double weights = 0;
  double gradients = 0;
  double optimizer = 0;
  double group_sums = 0;
  double exchange = 0;
  double activations = 0;
  double temporaries = 0;
  double snapshot = 0;
  double total() const {
    return program + weights + gradients + optimizer + group_sums + exchange + activations +
           temporaries + snapshot;
  }
};
MemoryEstimate estimate_memory(const Recipe& resolved_recipe, const Routing& routing,
                               int64_t ranks = 1);

// The object that --dry-run shows.
Json describe_run(const Recipe& resolved_recipe, int64_t ranks = 1);

}  // namespace osp
