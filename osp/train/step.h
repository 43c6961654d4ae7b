// One training step: the algorithm itself, without logging, saving or signals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/data/dataset.h"
#include "osp/train/state.h"

namespace osp {

// What a step found and did.
struct StepReport {
  double loss = 0;                     // mean over the scored tokens, before the update
  double gradient_norm = 0;            // of all groups, before clipping
  std::vector<double> gradient_norms;  // per routing group, before clipping
  std::vector<double> update_norms;    // per routing group; empty unless measured, 0 if skipped
  double data_seconds = 0;             // by the clock, of reading the batch
  double optimizer_seconds = 0;        // by the clock, of the optimizers' steps alone
  std::string skipped;                 // why the guard skipped the update, "" if it did not
};

// The sequences of a step that one of `num_ranks` processes computes: [first, first + count). Every
// sequence belongs to exactly one rank.
struct Slice {
  int64_t first = 0;
  int64_t count = 0;
};
Slice rank_slice(int64_t num_sequences, int64_t rank, int64_t num_ranks);

// Runs step state.step and adds one to it. `measure` asks for update norms. Error(diverged) from
// the guard; then weights and optimizer state are as before the step.
StepReport train_step(TrainState& state, const TokenDataset& data, bool measure);

// Frobenius norm over several tensors, summed in fp64 in blocks of fixed size, so that it does not
// depend on the number of threads. NaN or infinite if an element is.
double gradient_norm(const std::vector<at::Tensor>& tensors);
double gradient_norm_reference(const std::vector<at::Tensor>& tensors);

}  // namespace osp
