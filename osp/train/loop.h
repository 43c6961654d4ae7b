// A training run from its recipe to the finished model.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/console.h"
#include "osp/base/json.h"
#include "osp/train/config.h"

namespace osp {

struct TrainOptions {
  std::string out;               // run folder
  bool resume = false;           // continue from the newest checkpoint
  bool auto_resume = false;      // do so if the folder has a run
  std::string resume_from = {};  // "step-300": continue from that checkpoint instead
  std::string init_from;         // model dir or checkpoint whose weights a new run starts with
  bool with_optimizer = false;   // take the optimizer state from there as well

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Run");
    visit("out", self.out, "run folder to write; runs/NAME for a recipe NAME.toml if omitted",
          {.value = "FOLDER", .affects_results = false});
    visit("resume", self.resume, "continue from the newest checkpoint in the run folder",
          {.affects_results = false});
    visit("auto_resume", self.auto_resume,
          "continue from the newest checkpoint if the run folder has a run, else begin one: for "
          "launchers that start a job again",
          {.affects_results = false});
    visit("resume_from", self.resume_from,
          "checkpoint of the run folder to continue from instead of the newest; newer ones are set "
          "aside",
          {.value = "step-N", .affects_results = false});
    visit("init_from", self.init_from, "model dir or checkpoint that provides the initial weights",
          {.value = "FOLDER"});
    visit("with_optimizer", self.with_optimizer, "also load the optimizer state from --init-from",
          {.needs = "init_from"});
  }
};

// Trains until train.steps and leaves RUN/model. Returns what `osp train --json` prints. Errors
// beside those of the files: Error(memory) if the estimate exceeds the machine, Error(diverged)
// from the guard or for weights that are not finite, Error(io) after several failed saves,
// Error(interrupted) after SIGTERM, SIGINT, SIGHUP or SIGUSR1, when the state was saved.
Json train(const Recipe& recipe, const TrainOptions& options, Console& console);

// The resolved recipe, with the vocabulary of its data; without the data, which is a warning, with
// its own. Error(usage) for sizes or a schedule that contradict each other.
Recipe complete_recipe(const Recipe& recipe, Console& console);

// The data that a resolved recipe takes (describe_sources()); an empty list where the data
// does not exist.
Json describe_data(const Recipe& complete);

// The object that --dry-run prints: describe_run() with the vocabulary of the data, and
// describe_data(). Fails where train() would fail before it takes its folder; a path of data that
// does not exist is a warning, because recipes are also read for their sizes. Allocates nothing.
Json dry_run(const Recipe& recipe, int64_t ranks, Console& console);

}  // namespace osp
