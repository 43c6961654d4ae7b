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

// A run folder held by this process.
struct RunFolder {
  std::string path;
  std::unique_ptr<FileLock> lock;
  FoundCheckpoint checkpoint;  // step -1: start from the beginning
};

// Creates and locks the folder, finds the checkpoint to resume from, removes left-overs
// of interrupted saves. Error(usage) if another process trains there, if it has checkpoints and
// `resume` is false, or if it belongs to another recipe or other data; Error(damaged) if no
// checkpoint is intact.
RunFolder open_run_folder(const std::string& path, bool resume, const Recipe& resolved_recipe,
                          const std::string& data_fingerprint, Console& console);

// The entries of every manifest of this run beside its files.
Json run_manifest(const Recipe& resolved_recipe, const std::string& data_fingerprint);

}  // namespace osp
