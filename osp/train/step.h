// One training step: the algorithm itself, without logging, saving or signals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/data/batch.h"
#include "osp/data/mixture.h"
#include "osp/optim/optimizer.h"
#include "osp/train/state.h"

namespace osp {

// Measurements of one step.
struct StepReport {
  double loss = 0;                     // mean over the scored tokens, before the update
  StepValues values;                   // rate, momentum and decay that the groups' scales multiply
  double gradient_norm = 0;            // over all groups, before clipping
  std::vector<double> gradient_norms;  // per routing group, before clipping
  std::vector<double> update_norms;    // per routing group; empty unless measured, 0 if skipped
  double data_seconds = 0;             // wall time of reading the batch
  double optimizer_seconds = 0;        // wall time of the optimizers' steps alone
  std::string skipped;                 // the reason to skip the update, "" if it happened
};

// The sequences of a step that one of its groups has (groups_of_step()): [first, first + count).
// Every sequence belongs to exactly one group.
struct Slice {
  int64_t first = 0;
  int64_t count = 0;
};
Slice group_slice(int64_t num_sequences, int64_t group, int64_t num_groups);

// The sequences of the groups that this rank has.
Slice own_sequences(const TrainState& state);

// The order in which the recipe's run visits its data.
BatchPlan batch_plan(const Recipe& recipe);

// Runs step state.step and adds one to it. `measure` asks for update norms. The order matters:
//   1. accumulate   forward and backward over the micro-batches, with the optimizers watching; the
//                   gradient is that of the mean over all tokens scored in the step. A rank has
//                   some of the step's groups; the owner of each matrix adds its gradients of all
//                   ranks
//   2. norms        of each group's gradient and of all together
//   3. guard        loss and norm decide whether the update may happen; if not, or if the batch
//                   scores no token, steps 4 to 7 are skipped and weights and optimizer state stay
//                   as they are
//   4. clip         each group's gradient by the group's own norm
//   5. update       each group by its optimizer, at the scheduled rate, momentum and decay
//   6. look         at the weights: each is finite, as are the measured update norms
//   7. sync         the compute copies of the weights follow the masters
// All ranks have the same report but for times. With train.exact_ranks every sum is in an order
// that does not depend on the number of ranks.
// Error(diverged) from the guard; then weights and optimizer state are as before the step.
// Error(diverged) from 6; then they are lost, and state.step is the step before.
StepReport train_step(TrainState& state, const Mixture& data, bool measure);

// Frobenius norm over several tensors, summed in fp64 in blocks of fixed size, so that it does not
// depend on the number of threads. NaN or infinite if an element is.
double gradient_norm(const std::vector<at::Tensor>& tensors);
double sum_of_squares(const at::Tensor& tensor);
double gradient_norm_reference(const std::vector<at::Tensor>& tensors);

}  // namespace osp
