// osp bench eval: benchmarks of a model folder beside lm-eval on transformers
// (bench/peers/lm_eval_peer.py), in turn, each in a process of its own (osp/bench/eval_bench.h).
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <memory>

#include "osp/bench/eval_bench.h"
#include "osp/bench/turn.h"
#include "osp/cli/command.h"
#include "osp/eval/task.h"

namespace osp {
namespace {

struct BenchEvalArguments {
  CommonOptions common;
  EvalBench bench;
  int64_t repetitions = 3;
};

int run_bench_eval(const BenchEvalArguments& options) {
  const EvalBench& bench = options.bench;
  check_peer(bench.python, bench.peer);
  const auto tasks = parse_tasks(bench.tasks);
  Console console(options.common.quiet);
  std::vector<EvalRuns> pairs;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    pairs.push_back(run_eval_sides(bench));
    console.line("{}/{}", i + 1, options.repetitions);
  }
  Json result = {{"model", bench.model},
                 {"repetitions", options.repetitions},
                 {"threads", at::get_num_threads()},
                 {"ratio", ratio_of_all_tasks(pairs)},
                 {"tasks", Json::object()}};
  for (const TaskDescription* task : tasks) {
    result["tasks"][task->name] = summarize_task(task->name, pairs);
  }
  if (options.common.json) {
    print_json(result);
  } else {
    fmt::print("{}", items_per_s_table(result["tasks"], result["ratio"]));
  }
  return 0;
}

}  // namespace

void add_bench_eval(Command& bench) {
  auto options = std::make_shared<BenchEvalArguments>();
  Command command = bench.part("eval", "benchmarks beside lm-eval on transformers");
  add_common_options(command, options->common);
  add_model_option(command, options->bench.model);
  command.add("--data", options->bench.data, "the folder that the benchmarks are in").required();
  command.add("--tasks", options->bench.tasks, "benchmarks by commas");
  command.add("--limit", options->bench.limit, "items of each")
      .between(int64_t{1}, int64_t{1} << 40);
  command.add("--repetitions", options->repetitions, "runs of each side")
      .between(int64_t{1}, int64_t{1000});
  command.add("--python", options->bench.python, "interpreter with the peer's packages");
  command.add("--peer", options->bench.peer, "script of the peer");
  command.runs([options] { return run_bench_eval(*options); });
}

}  // namespace osp
