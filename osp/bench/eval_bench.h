// `osp bench eval`: benchmarks of a model folder beside lm-eval on transformers, which answers the
// same requests. Seconds are those of a task from its texts to its numbers, without
// loading the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/fields.h"
#include "osp/base/json.h"
#include "osp/bench/peer_settings.h"

namespace osp {

struct EvalBench {
  std::string model, data;
  std::string tasks = "arc_easy,hellaswag,trivia_qa";  // by commas
  int64_t limit = 100;                                 // items of each
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/lm_eval_peer.py";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("model", self.model, "model dir, training checkpoint or finished run folder",
          {.positional = true, .required = true});
    visit.group("Benchmarks");
    visit("data", self.data, "folder that holds the benchmarks' files",
          {.value = "FOLDER", .required = true});
    visit("tasks", self.tasks, "names of the benchmarks, separated by commas", {.value = "NAMES"});
    visit("limit", self.limit, Range{1, 1099511627776.0}, "number of items per benchmark");
    visit.group("Peer");
    visit("python", self.python, "Python interpreter that runs the peer", {.value = "FILE"});
    visit("peer", self.peer, "script of the peer that osp is compared with", {.value = "FILE"});
  }
};

// One run: results by task, what the process took (kProcess), and versions of a peer's packages.
struct EvalRun {
  Json tasks = {}, process = {}, versions = {};
};

// One run of each side.
struct EvalRuns {
  EvalRun ours, peer;
};

// Runs osp and the peer, one after the other, each in a process of its own.
EvalRuns run_eval_sides(const EvalBench& bench, const PeerSettings& settings);

// The fastest settings of the peer, on ten items of each task; `trials` as in fastest_settings().
PeerSettings tune_eval_peer(const EvalBench& bench, Json& trials);

// Medians over the pairs; the ratio, the peer's seconds over ours, is the median of each pair's.
Json summarize_task(const std::string& task, const std::vector<EvalRuns>& pairs);

// The peer's seconds for all tasks together over ours, the median of the pairs.
double ratio_of_all_tasks(const std::vector<EvalRuns>& pairs);

// {"cpu_seconds", "wall_seconds"}, each {"osp", "peer", "ratio"}: of whole processes, loading and
// the peer's search for its batch size included; medians over the pairs.
Json process_summary(const std::vector<EvalRuns>& pairs);

// One line per task of {task: summary}, and the ratio of all.
std::string items_per_s_table(const Json& tasks, double ratio);

}  // namespace osp
