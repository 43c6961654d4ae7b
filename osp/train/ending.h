// RUN/exit.json: how the process, or the ranks, that trained last in a run folder have ended.
//
//   {"ending": "failed", "status": 5, "cause": "rank 2 of 4: …: no space left",
//    "is_root_cause": true, "rank": 2, "ranks": 4, "step": 37, "checkpoint": 30}
//
// There is none while a run trains. The rank that fails first says why; one that only sees that
// another is gone (LostRank) says so where nobody has said more. Of an end that all ranks share,
// the first rank's words stay. The launcher of `--ranks` adds what a rank that was killed could not
// say (python/osp/ranks.py). Under torchrun "launch" names the start of it, by which its restarts
// know the record from that of an earlier job.
//
// Tested by tests/python/test_ranks_ending.py.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

#include "osp/ranks/ranks.h"

namespace osp {

class Ending {
 public:
  Ending(const std::string& run, const Ranks& ranks) : run_(run), ranks_(ranks) {}

  // Where torchrun has started the ranks again: the error by which the job ended before, if a
  // restart cannot help (wrong usage, divergence, a signal that asked to stop).
  void refuse_useless_restart() const;
  // For the first rank, once it holds the folder: removes the record of who trained there before,
  // and tells a launcher where the run is ($OSP_RUN_NOTE).
  void take_folder() const;
  // From now on the end is recorded.
  void begin(int64_t step) {
    begun_ = true;
    step_ = step;
  }
  void reached(int64_t step) { step_ = step; }

  void finished() const;
  // Never fails: the error that ends the run matters more.
  void failed(const std::exception& error) const noexcept;

 private:
  std::string run_;
  const Ranks& ranks_;
  bool begun_ = false;
  int64_t step_ = -1;
};

}  // namespace osp
