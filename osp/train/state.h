// The state of a run, and how it is read from a checkpoint (osp/train/snapshot.h).
//
// The loader needs no state of its own: batches are a pure function of (seed, step).
//
// Tested by osp/train/loop_test.cpp, tests/python/test_train.py and tests/python/test_crash.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/parameters.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"
#include "osp/ranks/owners.h"
#include "osp/ranks/ranks.h"
#include "osp/ranks/reduction.h"
#include "osp/train/config.h"
#include "osp/train/guard.h"

namespace osp {

// Everything that a training step reads and writes. Held by pointer: the optimizers refer to the
// store's banks.
struct TrainState {
  TrainState(const Recipe& resolved_recipe, const Ranks& ranks);
  TrainState(const TrainState&) = delete;
  TrainState& operator=(const TrainState&) = delete;

  Recipe recipe;
  Ranks ranks;
  Routing routing;
  // Every rank computes with all weights, and updates those that it owns, whose optimizer state it
  // keeps. With bf16 copies it also keeps the masters of these alone (only_owners_keep()); those of
  // `store` are then of use on the first rank while masters_complete.
  ParameterStore store;
  Owners owners;
  ParameterStore owned;  // a rank's own matrices: views of the store, but for such masters
  bool masters_complete = true;
  GroupSums group_sums;                                // of the groups' gradients on this rank
  std::vector<std::unique_ptr<Optimizer>> optimizers;  // one per routing group, of `owned`
  Guard guard;
  int64_t step = 0;      // steps done, skipped ones included
  bool watched = false;  // validation and samples of this step are in the log
  double seconds = 0;    // time spent in training, over all processes

  // Groups of a step's sequences, on all ranks and on this one.
  int64_t groups() const { return groups_of_step(recipe, ranks.size()); }
  GroupRun own_groups() const { return groups_of_rank(groups(), ranks.size(), ranks.rank()); }
};

// A new state with the recipe's initial weights. Allocates everything that training needs
// except activations.
std::unique_ptr<TrainState> make_state(const Recipe& resolved_recipe, const Ranks& ranks = {});

// The weights alone: masters on the CPU, in fp32, with these as compute copies; on the first rank
// after masters_to_first_rank(). Views of the state where that is on the CPU.
ParameterStore master_weights(const TrainState& state);

// The name of the first tensor of a rank's own weights or optimizer state with a number that is not
// finite, "".
std::string first_not_finite(const TrainState& state);

// Restores weights, optimizer state, guard and counters from a verified checkpoint of the same
// recipe, and returns the length of metrics.jsonl at that time. Error(damaged) names file
// and tensor.
uint64_t load_snapshot(TrainState& state, const std::string& folder);

// Weights alone from a model dir or checkpoint of equal shapes; Error(usage) names the first tensor
// that differs. `with_optimizer` also copies the optimizer state of a checkpoint.
void init_from(TrainState& state, const std::string& path, bool with_optimizer);

}  // namespace osp
