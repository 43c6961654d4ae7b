// metrics.jsonl: one JSON object a line, never a torn or a repeated one.
//
// Each line is appended by one write at a known length. When a write fails (full disk) the file is
// cut back to that length and the lines wait in memory for the next attempt, so training goes on. A
// checkpoint stores the length; resuming cuts the file back to it.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/json.h"

namespace osp {

// How much of a log a run continues that resumes at `step`, where it had `expected_bytes`: all of
// these if the file has them and they end a line; else the leading whole lines about steps up to
// `step`, and `warning` says so. A log is for people and does not decide whether a run goes on.
uint64_t usable_metrics(const std::string& path, uint64_t expected_bytes, int64_t step,
                        std::string& warning);

class MetricsLog {
 public:
  // Opens or creates the file and cuts it to `keep_bytes`. Error(damaged) if it is shorter than
  // that or the part that is kept does not end with a whole line.
  MetricsLog(const std::string& path, uint64_t keep_bytes);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  // Adds a line and tries to write it. Numbers that are not finite become null.
  void add(const Json& object);
  // All lines on disk, durably. Error(io) if that fails; the lines are kept for the next attempt.
  void sync();
  // Length of the file once every line is on disk.
  uint64_t bytes() const { return written_ + pending_.size(); }
  // The reason of the last failed write that was not yet asked for, "" if none.
  std::string take_failure();

 private:
  bool try_write();

  std::string path_;
  int descriptor_ = -1;
  uint64_t written_ = 0;
  std::string pending_;
  std::string failure_;
};

}  // namespace osp
