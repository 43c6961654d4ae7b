// Optimizers behind one interface: state as named tensors, one step over banks.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

// What changes from step to step; everything else is fixed at construction.
struct StepValues {
  int64_t step = 0;         // 1 for the first update
  double lr = 0;            // scheduled rate times the group's scale
  double momentum = 0.95;   // scheduled (Muon's beta)
  double weight_decay = 0;  // scheduled, decoupled: w -= lr · weight_decay · w
  bool measure = false;     // make last_update_norm() valid (costs a pass over Adam's weights)
};

// One optimizer over some banks of a store. Reads bank.gradient, writes bank.master; never touches
// the compute copies. Deterministic for a given number of threads and, unless docs/numerics.md says
// otherwise, for any.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // What must watch the forward and backward passes of the coming step; null: nothing. To be called
  // once before them; what the passes of a step without an update have shown is then forgotten.
  virtual Tap* watch_step() { return nullptr; }
  virtual void step(const StepValues& values) = 0;
  // Tensors to be stored in a checkpoint, in a fixed order. They alias the state: loading is
  // copy_().
  virtual std::vector<std::pair<std::string, at::Tensor>> state() const = 0;
  // Frobenius norm of the weights' change (decay included) in the last step that had `measure`.
  virtual double last_update_norm() const = 0;
};

}  // namespace osp
