// The exchange between the ranks of a run: gradients to the owners of matrices, weights back, and
// where a rank's optimizer state lies in a checkpoint. All of it does nothing for a rank that is
// alone. Every rank must call these functions in the same order.
//
// Tested by tests/python/test_ranks.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "osp/train/state.h"

namespace osp {

// True if each rank keeps only the masters of the bank that it owns: those that no pass reads, as
// it has bf16 copies of them.
bool only_owners_keep(const TrainState& state, const Bank& bank);

// Before there are optimizers: gives the masters of such banks in `owned` memory of their own.
void separate_owned_masters(TrainState& state);

// Before training: every rank takes the first one's weights, and drops the masters that
// it does not own.
void weights_of_first_rank(TrainState& state);

// Brings the gradients of all ranks to the owners, who add them: those of all groups in the fixed
// tree (osp/ranks/reduction.h). The sums are left in the gradients of `owned`. The bank gradients
// have the last of this rank's subtrees, and group_sums the others.
//
// Complete gradients may be sent while the backward pass goes on to the blocks in front of it. All
// ranks must make the same calls in the same order.
class GradientExchange {
 public:
  // For one step.
  explicit GradientExchange(TrainState& state);
  ~GradientExchange();

  // True if blocks_done() may be used: each rank has one group, so that nothing is to be
  // added to it.
  bool may_send_early() const;
  // The gradients of the parameters from block `layer` on are complete: starts to send them, once
  // they are enough to be worth a message.
  void blocks_done(int64_t layer);
  // All are complete: sends the rest, and waits for all sums.
  void finish();

 private:
  struct Part;  // units of a bank that are under way
  void send_from(const std::vector<int64_t>& first_units);
  void receive_oldest();

  TrainState& state_;
  std::vector<std::vector<GroupRun>> trees_;  // [rank]
  size_t rounds_ = 0;
  std::vector<int64_t> unsent_;  // of each bank: units [0, unsent) are still to be sent
  std::vector<Part> under_way_;  // the oldest first
};

// After an update: brings compute copies up to date on every rank, and the masters that forward
// passes read (gains, biases). The weights of one routing group may travel while those of the next
// are updated. All ranks must make the same calls in the same order.
class WeightExchange {
 public:
  // For one step.
  explicit WeightExchange(TrainState& state);

  // The masters of this group are updated: starts to send the copies that are made of them.
  void send_group(int64_t group);
  // All are updated: sends the rest, and waits for all.
  void finish();

 private:
  void start(size_t bank, const at::Tensor& tensor);
  void wait_for_oldest();

  TrainState& state_;
  std::vector<bool> is_sent_;  // by bank
  std::vector<Pending> under_way_;
};

// Gathers all masters on the first rank, up to date, for the model.
void masters_to_first_rank(TrainState& state);

// One number per part (Owners::parts) of all banks, in the order of banks, from each rank's numbers
// about its own.
std::vector<double> of_all_parts(const TrainState& state, const std::vector<double>& of_owned);

// Where a state tensor of an optimizer of `owned` lies in the whole one.
struct StatePlace {
  int64_t first = 0;           // its first number, counted in those of the whole one
  std::vector<int64_t> whole;  // the whole shape
  bool is_known = true;        // false: not its first entry, as this rank has nothing of it

  bool fits(const std::vector<int64_t>& shape) const;
};
StatePlace place_of_state(const TrainState& state, const std::string& name,
                          const at::Tensor& tensor);

// A state tensor of an optimizer, and where this rank's part of it lies in that of one process.
struct WholeState {
  std::string name;
  at::Tensor own;               // contiguous part of the whole one
  std::vector<int64_t> shape;   // of the whole one
  uint64_t first_byte = 0;      // of `own` in it
  bool is_written_here = true;  // false for a count, which all ranks have, but on the first
};
// Those of all optimizers, in their order. All ranks must call it; nothing large travels.
std::vector<WholeState> whole_optimizer_state(const TrainState& state);

}  // namespace osp
