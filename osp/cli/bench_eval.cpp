// osp bench eval: benchmarks of a model folder beside lm-eval on transformers
// (bench/peers/lm_eval_peer.py), which answers the same requests; in turn, each in a process of its
// own. Seconds are those of a task from its texts to its numbers, without loading the model.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <memory>

#include "osp/base/error.h"
#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/bench/child.h"
#include "osp/cli/command.h"
#include "osp/eval/task.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

struct BenchEvalArguments {
  CommonOptions common;
  std::string model, data;
  std::string tasks = "arc_easy,hellaswag,trivia_qa";
  int64_t limit = 100;
  int64_t repetitions = 3;
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/lm_eval_peer.py";
};

struct AnsweredPair {
  Json ours, peer;  // by task
};

AnsweredPair run_pair(const BenchEvalArguments& options) {
  const TemporaryFolder folder;
  const std::string samples = folder / "samples.jsonl";
  const std::string dir = find_model_dir(options.model);
  const Json ours = run_child({own_program(), "eval", dir, "--data", options.data, "--tasks",
                               options.tasks, "--limit", std::to_string(options.limit),
                               "--save-items", samples, "--json", "--quiet"});
  const Json peer = run_child({options.python, options.peer, dir, samples, "--threads",
                               std::to_string(at::get_num_threads())});
  return {ours["models"][0]["results"][0]["tasks"], peer["tasks"]};
}

// Medians over the pairs; the ratio is the median of each pair's.
Json summary_of_task(const std::string& task, const std::vector<AnsweredPair>& pairs) {
  std::vector<double> ours, peer, ratios;
  for (const AnsweredPair& pair : pairs) {
    ours.push_back(pair.ours[task]["seconds"]);
    peer.push_back(pair.peer[task]["seconds"]);
    ratios.push_back(peer.back() / ours.back());
  }
  const Json& last = pairs.back().peer[task];
  const double items = last["items"];
  Json json = {{"items", last["items"]},
               {"items_per_s", items / median(ours)},
               {"peer_items_per_s", items / median(peer)},
               {"ratio", median(ratios)},
               {"ratios", ratios},
               {"peer_batch_size", last["batch_size"]}};
  for (const char* key : {"largest_difference", "equal_texts"}) {
    if (last.contains(key)) json[key] = last[key];
  }
  return json;
}

// Of all tasks together: the peer's seconds over ours, the median of the pairs.
double ratio_of_all(const std::vector<AnsweredPair>& pairs) {
  std::vector<double> ratios;
  for (const AnsweredPair& pair : pairs) {
    double ours = 0, peer = 0;
    for (const auto& [task, result] : pair.ours.items()) {
      ours += result["seconds"].get<double>();
      peer += pair.peer[task]["seconds"].get<double>();
    }
    ratios.push_back(peer / ours);
  }
  return median(ratios);
}

void print_items_per_s(const Json& tasks, double ratio) {
  fmt::print("{:<16} {:>6} {:>12} {:>14} {:>7} {:>11}\n", "task", "items", "osp items/s",
             "peer items/s", "ratio", "peer batch");
  for (const auto& [name, task] : tasks.items()) {
    fmt::print("{:<16} {:>6} {:>12.2f} {:>14.2f} {:>7.2f} {:>11}\n", name,
               task["items"].get<int64_t>(), task["items_per_s"].get<double>(),
               task["peer_items_per_s"].get<double>(), task["ratio"].get<double>(),
               task["peer_batch_size"].get<int64_t>());
  }
  fmt::print("all together: {:.2f} times as fast\n", ratio);
}

int run(const BenchEvalArguments& options) {
  check_peer(options.python, options.peer);
  const auto tasks = parse_tasks(options.tasks);
  Console console(options.common.quiet);
  std::vector<AnsweredPair> pairs;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    pairs.push_back(run_pair(options));
    console.line("{}/{}", i + 1, options.repetitions);
  }
  Json result = {{"model", options.model},
                 {"repetitions", options.repetitions},
                 {"threads", at::get_num_threads()},
                 {"ratio", ratio_of_all(pairs)},
                 {"tasks", Json::object()}};
  for (const TaskDescription* task : tasks) {
    result["tasks"][task->name] = summary_of_task(task->name, pairs);
  }
  if (options.common.json) {
    print_json(result);
  } else {
    print_items_per_s(result["tasks"], result["ratio"]);
  }
  return 0;
}

}  // namespace

void add_bench_eval(Command& bench) {
  auto options = std::make_shared<BenchEvalArguments>();
  Command command = bench.part("eval", "benchmarks beside lm-eval on transformers");
  add_common_options(command, options->common);
  add_model_option(command, options->model);
  command.add("--data", options->data, "the folder that the benchmarks are in").required();
  command.add("--tasks", options->tasks, "benchmarks by commas");
  command.add("--limit", options->limit, "items of each").between(int64_t{1}, int64_t{1} << 40);
  command.add("--repetitions", options->repetitions, "runs of each side")
      .between(int64_t{1}, int64_t{1000});
  command.add("--python", options->python, "interpreter with the peer's packages");
  command.add("--peer", options->peer, "script of the peer");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
