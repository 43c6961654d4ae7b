// Saving checkpoints while training continues, and counting the saves that fail.
//
// Tested by osp/train/saver_test.cpp and tests/python/test_crash.py.
#pragma once

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "osp/base/console.h"
#include "osp/train/checkpoint.h"
#include "osp/train/state.h"

namespace osp {

struct SaverOptions {
  std::string run;
  std::string tokenizer_json;
  Json manifest;  // the entries of every manifest beside its files
  int64_t keep = 2;
  int64_t max_failures = 3;
};

// Commits snapshots one at a time, in a thread of its own or at once. A failed save is reported and
// counted; the run continues until max_failures have failed in a row. Older checkpoints are removed
// only after a newer one is committed: `keep` healthy ones stay, and of those inside a streak of
// skipped steps (Snapshot::healthy) the last, until a healthy one follows.
class Saver {
 public:
  // `found`: the checkpoints that the run folder has.
  Saver(const SaverOptions& options, const FoundCheckpoint& found, Console& console);
  ~Saver();
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

  // Waits for the save before, then saves: in the background, or in this thread before it returns.
  // Error(io) once too many saves have failed.
  void save(Snapshot snapshot, bool background);
  // Waits for the save that is running. Error(io) once too many saves have failed.
  void wait();
  // A save that failed before it could start (its log could not be written).
  void count_failure(const std::string& reason);
  // The newest step that is known to be committed, -1 if none. Call wait() first.
  int64_t last_committed() const { return last_committed_; }
  // The newest healthy one, -1 if none.
  int64_t last_healthy() const { return healthy_.empty() ? -1 : healthy_.back(); }

 private:
  void commit(const Snapshot& snapshot);
  void take_result();
  void purge();

  SaverOptions options_;
  Console& console_;
  std::vector<int64_t> healthy_;    // ascending
  std::vector<int64_t> in_streak_;  // ascending
  int64_t last_committed_ = -1;
  int64_t failures_ = 0;  // in a row
  std::thread thread_;
  // Written by the thread, read after it was joined.
  std::string error_;
  int64_t saved_step_ = -1;
  bool saved_healthy_ = true;
};

}  // namespace osp
