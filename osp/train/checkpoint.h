// Checkpoint folders: committed as a whole or not at all, verified before they are used.
//
//   RUN/step-300.tmp/   being written; ignored and removed at the next start
//   RUN/step-280.damaged/     set aside at a start because a file differed from the manifest
//   RUN/step-320.superseded/  set aside by --resume-from an older step
//   RUN/step-300/       committed: config.json, model.safetensors, tokenizer.json (a model dir),
//                       optimizer.safetensors, trainer.json, recipe.json, manifest.json
//
// manifest.json is written last and has the size and SHA-256 of every other file and of its own
// content. This file knows nothing about tensors; the content of a checkpoint is in
// osp/train/snapshot.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

inline constexpr int64_t kCheckpointFormat = 1;

// Path of the committed checkpoint of a step.
std::string checkpoint_path(const std::string& run, int64_t step);

// Size and SHA-256 of a file as a manifest has them, read from the disk.
Json describe_file(const std::string& path);

// Writes RUN/step-N: `write_files` fills the temporary folder (every file fsynced by its writer)
// and returns describe_file() of each by its name, then manifest.json = `manifest` plus format and
// files, fsync, rename, fsync. Any failure is an Error(io) and leaves no RUN/step-N of this
// attempt; nothing is tried again. The steps are those of write_folder_atomic.
void commit_checkpoint(const std::string& run, int64_t step, const Json& manifest,
                       const std::function<Json(const std::string& folder)>& write_files);

// The manifest of a checkpoint folder after comparing every file with it. Error(damaged) that names
// file and difference.
Json verify_checkpoint(const std::string& folder);

// Steps of RUN/step-N folders, ascending, valid or not.
std::vector<int64_t> list_checkpoints(const std::string& run);

// Steps that were skipped in a row up to a checkpoint, as its trainer.json says; 0 for a healthy
// one. Inside such a streak the weights are those of the last healthy step and trouble is ahead, so
// these checkpoints do not count among those to keep.
int64_t skips_in_a_row(const std::string& folder);

struct FoundCheckpoint {
  int64_t step = -1;  // -1: the run has no checkpoint
  Json manifest;
  // All that verified, ascending: healthy ones up to the number asked for, with `step` among one of
  // the two.
  std::vector<int64_t> healthy;
  std::vector<int64_t> in_streak;  // see skips_in_a_row()
  std::vector<int64_t> damaged;
  std::vector<int64_t> superseded;    // newer than a step that was chosen
  std::vector<int64_t> surplus;       // older than the healthy ones that were asked for
  std::vector<std::string> warnings;  // one for each that cannot be used
};

// The newest checkpoint that verifies, or `chosen` if that is not negative, and what the others
// are. Looks at checkpoints from the newest to the oldest until `keep` healthy ones have verified.
// Error(damaged) if there are checkpoints and none verifies, or if the chosen one is damaged;
// Error(usage) if there is no such step. A checkpoint that cannot be read for another reason than
// damage (permissions, a disk that does not answer) is passed over with a warning and left alone.
FoundCheckpoint find_checkpoint(const std::string& run, int64_t chosen = -1, int64_t keep = 2);

// Removes left-overs of an interrupted save or purge (step-N.tmp, step-N.old) and surplus
// checkpoints, and sets damaged and superseded ones aside. Only for the holder of the lock.
void clean_run_folder(const std::string& run, const FoundCheckpoint& found);

// Removes what was set aside (step-N.damaged, step-N.superseded) at steps up to `step`: a
// checkpoint that replaces it is committed.
void remove_set_aside(const std::string& run, int64_t step);

// Removes the oldest of `valid_steps` (ascending) until `keep` are left.
// Returns those that are left.
std::vector<int64_t> purge_checkpoints(const std::string& run, std::vector<int64_t> valid_steps,
                                       int64_t keep);

// A small file of a checkpoint: created, written, fsynced.
void write_file_durable(const std::string& path, const std::string& bytes);

}  // namespace osp
