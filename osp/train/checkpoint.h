// Checkpoint folders: committed as a whole or not at all, verified before they are used.
//
//   RUN/step-300.tmp/   being written; ignored and removed at the next start
//   RUN/step-300/       committed: config.json, model.safetensors, tokenizer.json (a model dir),
//                       optimizer.safetensors, trainer.json, recipe.json, manifest.json
//
// manifest.json is written last and has the size and SHA-256 of every other file and of its own
// content. This file knows nothing about tensors; the content of a checkpoint is in
// osp/train/state.h.
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

// Writes RUN/step-N: `write_files` fills the temporary folder (every file fsynced by its writer),
// then manifest.json = `manifest` plus format and files, fsync, rename, fsync. Any failure is an
// Error(io) and leaves no RUN/step-N of this attempt; nothing is tried again. The steps are those
// of write_folder_atomic.
void commit_checkpoint(const std::string& run, int64_t step, const Json& manifest,
                       const std::function<void(const std::string& folder)>& write_files);

// The manifest of a checkpoint folder after comparing every file with it. Error(damaged) that names
// file and difference.
Json verify_checkpoint(const std::string& folder);

// Steps of RUN/step-N folders, ascending, valid or not.
std::vector<int64_t> list_checkpoints(const std::string& run);

struct FoundCheckpoint {
  int64_t step = -1;  // -1: the run has no checkpoint
  Json manifest;
  std::vector<std::string> warnings;  // one for each newer checkpoint that is damaged
};

// The newest checkpoint that verifies. Error(damaged) if there are checkpoints and none verifies.
FoundCheckpoint find_checkpoint(const std::string& run);

// Removes left-overs of an interrupted save or purge (step-N.tmp, step-N.old) and renames
// checkpoints newer than `valid_step`, which are damaged, to step-N.damaged. Only for the holder of
// the lock.
void clean_run_folder(const std::string& run, int64_t valid_step);

// Removes the oldest of `valid_steps` (ascending) until `keep` are left; `keep` is at least 2.
// Returns those that are left.
std::vector<int64_t> purge_checkpoints(const std::string& run, std::vector<int64_t> valid_steps,
                                       int64_t keep);

// A small file of a checkpoint: created, written, fsynced.
void write_file_durable(const std::string& path, const std::string& bytes);

}  // namespace osp
