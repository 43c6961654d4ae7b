#include "osp/bench/eval_bench.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>

#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/bench/child.h"
#include "osp/bench/summary.h"
#include "osp/model/model_dir.h"

namespace osp {

namespace {

// Our results by task, and the process's; writes the requests that the peer answers to `samples`.
EvalRun run_our_eval(const EvalBench& bench, int64_t limit, const std::string& samples) {
  const Json ours = run_child({own_program(), "eval", find_model_dir(bench.model), "--data",
                               bench.data, "--tasks", bench.tasks, "--limit", std::to_string(limit),
                               "--save-items", samples, "--json", "--quiet"});
  return {ours["models"][0]["results"][0]["tasks"], ours[kProcess]};
}

EvalRun run_peer_eval(const EvalBench& bench, const std::string& samples,
                      const PeerSettings& settings) {
  const Json peer = run_child({bench.python, bench.peer, find_model_dir(bench.model), samples,
                               "--threads", std::to_string(at::get_num_threads())},
                              settings.environment);
  return {peer["tasks"], peer[kProcess], peer.value("versions", Json::object())};
}

}  // namespace

EvalRuns run_eval_sides(const EvalBench& bench, const PeerSettings& settings) {
  const TemporaryFolder folder;
  const std::string samples = folder / "samples.jsonl";
  EvalRuns runs;
  runs.ours = run_our_eval(bench, bench.limit, samples);
  runs.peer = run_peer_eval(bench, samples, settings);
  return runs;
}

PeerSettings tune_eval_peer(const EvalBench& bench, Json& trials) {
  const TemporaryFolder folder;
  const std::string samples = folder / "samples.jsonl";
  run_our_eval(bench, bench.limit == 0 ? 10 : std::min<int64_t>(bench.limit, 10), samples);
  const auto items_per_s = [&](const PeerSettings& settings) {
    double items = 0, seconds = 0;
    const EvalRun run = run_peer_eval(bench, samples, settings);
    for (const auto& [task, result] : run.tasks.items()) {
      items += result["items"].get<double>();
      seconds += result["seconds"].get<double>();
    }
    return items / seconds;
  };
  return fastest_settings(items_per_s, "items_per_s", trials);
}

Json summarize_task(const std::string& task, const std::vector<EvalRuns>& pairs) {
  std::vector<Json> ours, peer;
  for (const EvalRuns& pair : pairs) {
    ours.push_back(pair.ours.tasks[task]);
    peer.push_back(pair.peer.tasks[task]);
  }
  const Json& last = peer.back();
  const double items = last["items"];
  Json json = {{"items", last["items"]},
               {"items_per_s", items / median_of(ours, "seconds")},
               {"peer_items_per_s", items / median_of(peer, "seconds")},
               {"ratio", median_ratio(peer, ours, "seconds")},
               {"ratios", ratios_by_pair(peer, ours, "seconds")},
               {"peer_batch_size", last["batch_size"]}};
  for (const char* key : {"largest_difference", "equal_texts"}) {
    if (last.contains(key)) json[key] = last[key];
  }
  return json;
}

double ratio_of_all_tasks(const std::vector<EvalRuns>& pairs) {
  std::vector<double> ratios;
  for (const EvalRuns& pair : pairs) {
    double ours = 0, peer = 0;
    for (const auto& [task, result] : pair.ours.tasks.items()) {
      ours += result["seconds"].get<double>();
      peer += pair.peer.tasks[task]["seconds"].get<double>();
    }
    ratios.push_back(peer / ours);
  }
  return median(ratios);
}

Json process_summary(const std::vector<EvalRuns>& pairs) {
  std::vector<Json> ours, peer;
  for (const EvalRuns& pair : pairs) {
    ours.push_back(pair.ours.process);
    peer.push_back(pair.peer.process);
  }
  Json summary = Json::object();
  for (const char* key : {"cpu_seconds", "wall_seconds"}) {
    summary[key] = {{"osp", median_of(ours, key)},
                    {"peer", median_of(peer, key)},
                    {"ratio", median_ratio(peer, ours, key)}};
  }
  return summary;
}

std::string items_per_s_table(const Json& tasks, double ratio) {
  std::string table = fmt::format("{:<16} {:>6} {:>12} {:>14} {:>7} {:>11}\n", "task", "items",
                                  "osp items/s", "peer items/s", "ratio", "peer batch");
  for (const auto& [name, task] : tasks.items()) {
    table += fmt::format("{:<16} {:>6} {:>12.2f} {:>14.2f} {:>7.2f} {:>11}\n", name,
                         task["items"].get<int64_t>(), task["items_per_s"].get<double>(),
                         task["peer_items_per_s"].get<double>(), task["ratio"].get<double>(),
                         task["peer_batch_size"].get<int64_t>());
  }
  return table + fmt::format("all together: {:.2f} times as fast\n", ratio);
}

}  // namespace osp
