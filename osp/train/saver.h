// Saving checkpoints while training continues, and counting the saves that fail.
//
// Tested by osp/train/saver_test.cpp and tests/python/test_crash.py.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "osp/base/console.h"
#include "osp/train/checkpoint.h"
#include "osp/train/shared_save.h"

namespace osp {

struct SaverOptions {
  std::string run;
  std::string tokenizer_json;
  Json manifest;  // the entries of every manifest beside its files
  int64_t keep = 2;
  int64_t max_failures = 3;
  Ranks ranks = {};  // a group that nobody else uses
};

// Commits snapshots one at a time, in a thread of its own or at once. A failed save is reported and
// counted; the run continues until max_failures have failed in a row. Older checkpoints are removed
// only after a newer one is committed: `keep` healthy ones stay, and of those inside a streak of
// skipped steps (Snapshot::healthy) the last, until a healthy one follows.
//
// With many ranks each has a saver and all save the same steps. The first one's reports, counts and
// removes; the others know of no checkpoint. One that has lost another rank says so by LostRank.
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
  // Waits for the save that is running. Error(io) once too many saves have failed; LostRank.
  void wait();
  // Another rank is gone: a save that is running waits for it no longer.
  void give_up() { *given_up_ = true; }
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
  std::shared_ptr<std::atomic<bool>> given_up_ = std::make_shared<std::atomic<bool>>(false);
  std::thread thread_;
  // Written by the thread, read after it was joined.
  std::string error_;
  bool is_lost_ = false;  // a LostRank
  int64_t saved_step_ = -1;
  bool saved_healthy_ = true;
};

}  // namespace osp
