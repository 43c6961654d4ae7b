// Runs in turn: the timed part of a bench in a process of its own, so that start-up and peak memory
// are separate, and the same work by a peer's script.
//
// Tested by tests/python/test_bench_train.py and tests/python/test_bench_optim.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/fields.h"
#include "osp/base/json.h"
#include "osp/bench/peer_settings.h"

namespace osp {

// Error(usage) if the peer's interpreter or script does not exist.
void check_peer(const std::string& python, const std::string& script);

// Options of the benches that time steps of both sides in turn.
struct TurnOptions {
  int64_t steps = 3;
  int64_t repetitions = 3;
  int64_t threads = 0;
  std::string python = ".venv/bin/python";
  std::string peer;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Timing");
    visit("steps", self.steps, Range{1, 100000},
          "number of timed steps per run, after one step that is not timed");
    visit("repetitions", self.repetitions, Range{1, 1000}, "number of runs of each side");
    visit("threads", self.threads, Range{0, 4096},
          "number of threads of both sides; 0 = the default of each");
    visit.group("Peer");
    visit("python", self.python, "Python interpreter that runs the peer", {.value = "FILE"});
    visit("peer", self.peer, "script of the peer that osp is compared with", {.value = "FILE"});
  }

  // Sets the tensor library's threads, unless 0.
  void use_threads() const;
  // "--steps", "--threads" and their values, as both sides take them.
  std::vector<std::string> words() const;
};

// Runs `osp bench PART --alone WORDS…` with steps and threads, and returns what it prints.
Json run_alone(const TurnOptions& turn, const std::string& part,
               const std::vector<std::string>& words);

// Runs the peer's script with WORDS…, steps and threads, and returns what it prints.
Json run_peer(const TurnOptions& turn, const std::vector<std::string>& words,
              const Environment& environment = {});

}  // namespace osp
