// osp bench eval: benchmarks of a model folder beside lm-eval on transformers
// (bench/peers/lm_eval_peer.py), in turn, each in a process of its own (osp/bench/eval_bench.h).
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <memory>

#include "osp/bench/eval_bench.h"
#include "osp/bench/turn.h"
#include "osp/cli/command.h"
#include "osp/eval/task.h"
#include "osp/ops/result_origin.h"

namespace osp {
namespace {

struct BenchEvalCommand {
  CommonOptions common;
  EvalBench bench;
  int64_t repetitions = 3;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    EvalBench::fields(visit, self.bench);
    visit("repetitions", self.repetitions, Range{1, 1000}, "number of runs of each side");
    CommonOptions::fields(visit, self.common);
  }
};

int run_bench_eval(const BenchEvalCommand& options) {
  const EvalBench& bench = options.bench;
  check_peer(bench.python, bench.peer);
  const auto tasks = parse_tasks(bench.tasks);
  Console console(options.common.quiet);
  Json trials = Json::array();
  const PeerSettings settings = tune_eval_peer(bench, trials);
  console.line("peer: {}", settings.name);
  std::vector<EvalRuns> pairs;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    pairs.push_back(run_eval_sides(bench, settings));
    console.line("{}/{}", i + 1, options.repetitions);
  }
  Json result = {{"model", bench.model},
                 {"repetitions", options.repetitions},
                 {"threads", at::get_num_threads()},
                 {"ratio", ratio_of_all_tasks(pairs)},
                 {"peer_settings", settings.name},
                 {"peer_trials", trials},
                 {"peer_versions", pairs.back().peer.versions},
                 {"processes", process_summary(pairs)},
                 {"tasks", Json::object()}};
  for (const TaskDescription* task : tasks) {
    result["tasks"][task->name] = summarize_task(task->name, pairs);
  }
  record_timed_origin(result);
  if (options.common.json) {
    print_json(result);
  } else {
    print_out("{}", items_per_s_table(result["tasks"], result["ratio"]));
  }
  return 0;
}

}  // namespace

void add_bench_eval(Command& bench) {
  bench.part<BenchEvalCommand>(
      "eval", "compare benchmarks of a model folder with lm-eval on transformers", run_bench_eval);
}

}  // namespace osp
