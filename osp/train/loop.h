// A training run from its recipe to the finished model.
#pragma once

#include <string>

#include "osp/base/console.h"
#include "osp/base/json.h"
#include "osp/train/config.h"

namespace osp {

struct TrainOptions {
  std::string out;              // run folder
  bool resume = false;          // continue from the newest checkpoint, or start if there is none
  std::string init_from;        // model dir or checkpoint whose weights a new run starts with
  bool with_optimizer = false;  // take the optimizer state from there as well
};

// Trains until train.steps and leaves RUN/model. Returns what `osp train --json` prints. Errors
// beside those of the files: Error(diverged) from the guard, Error(io) after several failed saves,
// Error(interrupted) after SIGTERM, SIGINT or SIGUSR1, when the state was saved.
Json train(const Recipe& recipe, const TrainOptions& options, Console& console);

// The object that --dry-run prints: describe_run() with the vocabulary of the data, if that exists.
// Allocates nothing.
Json dry_run(const Recipe& recipe);

}  // namespace osp
