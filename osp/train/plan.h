// The memory and the time that a run on many devices would take, computed from the recipe alone.
//
// The layout is that of data parallelism with owners. Every device computes the passes of its share
// of a step's sequences and holds the weights in the precision of the passes and one sum of
// gradients. Gradients go to their owners, which alone hold fp32 weights and optimizer state, and
// the new weights come back. Matrices that Newton–Schulz orthogonalises are owned whole, by the
// rule of the trainer (assign_owners), or by `split` devices together, each with a share of the
// long side; all else is divided evenly.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/train/config.h"

namespace osp {

struct Cluster {
  int64_t devices = 1;
  double memory_bytes = 0;  // of a device; 0: not limited
  double bytes_per_s = 0;   // that a device sends, and receives at the same time
  double flops_per_s = 0;   // of a device's products in the precision of the recipe
  double efficiency = 0.5;  // share of these that passes and Newton–Schulz reach
  double overlap =
      1;  // share of the last micro-batch's backward pass that hides the sending of gradients
};

struct Layout {
  int64_t split = 1;  // devices that own a matrix together
  int64_t groups =
      0;  // groups of so many devices that own matrices; 0: as many as there are devices
};

// Bytes of one device. The parts are those of MemoryEstimate, for the device that holds most.
struct DeviceMemory {
  double program = 0, weights = 0, masters = 0, gradients = 0, optimizer = 0, exchange = 0;
  double activations = 0, temporaries = 0, snapshot = 0;
  double total() const {
    return program + weights + masters + gradients + optimizer + exchange + activations +
           temporaries + snapshot;
  }
};

// One layout, and what it costs. Amounts are those of the busiest device in a step.
struct LayoutPlan {
  Layout layout;
  int64_t busy_groups = 0;     // that own a matrix
  double owned_scalars = 0;    // most that a device owns
  double balance = 0;          // mean over devices of Newton–Schulz operations, over the most
  double optimizer_flops = 0;  // Newton–Schulz
  double inner_bytes = 0;  // received within Newton–Schulz, from the devices that share a matrix
  double gradient_bytes = 0;  // sent or received, the larger
  double weight_bytes = 0;
  DeviceMemory memory;
  bool fits = true;
  double passes_s = 0, optimizer_s = 0, gradients_s = 0, weights_s = 0;
  double hidden_s = 0;  // of the gradients' sending, behind the backward pass
  double step_s = 0;    // with what is hidden
  double mfu = 0;       // of the devices' rate, by the model's own operations
  double of_adam = 0;   // throughput beside the same run with Adam on everything

  double serial_step_s() const { return passes_s + optimizer_s + gradients_s + weights_s; }
};

struct Plan {
  Cluster cluster;
  int64_t parameters = 0;
  int64_t matrices = 0;  // that Newton–Schulz orthogonalises
  double matrix_scalars = 0;
  double matrix_flops = 0;  // of Newton–Schulz, all of them, in a step
  double largest_matrix_flops = 0;
  int64_t sequences = 0;  // of a device's step, at most
  int64_t micro_batches = 0;
  double passes_flops = 0;          // of a device's step
  double total_wire_bytes = 0;      // of all devices in a step, gradients and weights
  std::vector<LayoutPlan> layouts;  // all that were tried
  size_t best = 0;                  // the fastest that fits, else the smallest
};

// Tries layouts for the resolved recipe, or the given one alone. Error(usage) if there are more
// devices than sequences in a step, if an optimizer other than Muon, Adam, Adafactor and the gain
// rule has work to divide, or if a given layout needs more devices than there are.
Plan make_plan(const Recipe& resolved_recipe, const Cluster& cluster,
               const Layout* given = nullptr);

Json plan_json(const Plan& plan);

}  // namespace osp
