// The folder of a run: the lock of its one writer, and the check that it belongs to this recipe.
//
// Tested by osp/train/loop_test.cpp and tests/python/test_train.py.
#pragma once

#include <memory>
#include <string>

#include "osp/base/console.h"
#include "osp/base/file.h"
#include "osp/train/checkpoint.h"
#include "osp/train/config.h"

namespace osp {

// Where ranks prove that they share a run folder (check_folder_is_shared()).
inline constexpr const char* kSharingProof = "ranks.tmp";

// A run folder held by this process.
struct RunFolder {
  std::string path;
  std::unique_ptr<FileLock> lock;
  FoundCheckpoint checkpoint;  // step -1: start from the beginning
  int64_t steps_before = 0;    // train.steps of the run so far if that was another one, else 0
};

// Which checkpoint of a run folder to continue from.
struct ResumeChoice {
  bool resume = false;
  bool automatic = false;  // resume if the folder has anything of a run, else begin one
  std::string from;        // "step-300"; "": the newest
  int64_t ranks = 1;       // that go on
};

// The weights that a run began with, from --init-from. They are of no further use once there
// is a checkpoint.
struct StartingWeights {
  std::string from;  // "": initialised
  bool with_optimizer = false;
};

// Creates and locks the folder, finds the checkpoint to resume from, sets aside and removes what
// clean_run_folder() names. `start` becomes what the run began with, where it has no checkpoint
// yet. Error(usage) if another process trains there; if it holds anything of a run and `choice`
// does not resume it, or nothing and `choice.resume` or `choice.from` do; if `start` names weights
// and the run began with others, or has a checkpoint and `choice` is not automatic; if it belongs
// to another recipe or other data, or nothing says to which; if it holds a finished model and no
// checkpoint; if the checkpoint is beyond train.steps, which otherwise may differ from the run's.
// Error(damaged) if no checkpoint is intact.
RunFolder open_run_folder(const std::string& path, const ResumeChoice& choice,
                          StartingWeights& start, const Recipe& resolved_recipe,
                          const std::string& data_fingerprint, Console& console);

// Writes RUN/recipe.json, by which the folder belongs to the run.
// RUN/start.json, where there are starting weights, says which.
void write_run_recipe(const std::string& run, const Recipe& resolved_recipe,
                      const StartingWeights& start);

// The entries of every manifest of this run beside its files.
Json run_manifest(const Recipe& resolved_recipe, const std::string& data_fingerprint,
                  int64_t num_ranks);

}  // namespace osp
