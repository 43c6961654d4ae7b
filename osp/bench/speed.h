// How fast this machine trains: a few steps of the real training step on random tokens.
//
// Tested by tests/python/test_bench_train.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/bench/op_profile.h"
#include "osp/ranks/ranks.h"
#include "osp/train/config.h"

namespace osp {

struct TrainingSpeed {
  double tokens_per_s = 0;  // by the median step
  double loss = 0;          // of the last step
  int64_t parameters = 0;
  int64_t peak_memory_bytes = 0;  // of the whole process
  int64_t batch_tokens = 0;       // of a step
  double step_seconds = 0;        // the median step; with a profile, which adds up to it, the mean
  double cpu_seconds = 0;         // of a step, of all threads (the median)
  double data_seconds = 0;        // of a step, for reading the batch (the median)
  double optimizer_seconds = 0;   // of a step, for the optimizers (the median)
  double page_faults = 0;         // of a step: new pages of memory (the median)
  double model_flops_per_s = 0;   // the model's own, without recomputation and optimizer
  double product_flops_per_s =
      0;                   // of a large product, measured in the same process; 0 with many ranks
  double sent_bytes = -1;  // of a step, by this rank's network (the mean); -1: not known
  std::vector<OpTime> operators;  // per step on average, with a profile
};

// "demo": the demo's OSP model; "50m" and "125m": so many million parameters, also OSP. 8,192
// tokens a step, in one micro-batch, bf16, in sequences of `context` tokens (0: the model's own).
// `assignments` "section.key=value" change it further. Error(usage) for other names and for a
// context that does not divide the step.
Recipe speed_recipe(const std::string& model, int64_t context = 0,
                    const std::vector<std::string>& assignments = {});

// Runs `steps` timed steps after one that is not counted, on tokens in a temporary folder. With
// `profile` operators are timed too, which slows the steps down a little. With several ranks the
// numbers are this rank's own, but for the tokens, which are those of all.
TrainingSpeed measure_training_speed(Recipe recipe, int64_t steps, bool profile = false,
                                     const Ranks& ranks = {});

// Bytes that the network interface of the ranks (GLOO_SOCKET_IFNAME) has sent; -1 without one, and
// for the loopback interface, which every process shares.
int64_t network_sent_bytes();

}  // namespace osp
