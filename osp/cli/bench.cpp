// osp bench, and its part train: training speed and memory beside plain PyTorch, in turn, each in a
// process of its own, so that peak memory is separate. The peer is bench/peers/train_eager.py.
#include <ATen/Parallel.h>
#include <memory>

#include "osp/base/error.h"
#include "osp/cli/child.h"
#include "osp/cli/command.h"
#include "osp/train/speed.h"

namespace osp {
namespace {

struct BenchArguments {
  CommonOptions common;
  std::string model = "all";
  int64_t steps = 5;
  int64_t repetitions = 3;
  int64_t threads = 0;
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/train_eager.py";
  bool alone = false;
};

struct Pair {
  Json ours, peer;
};

// The part that is timed, in a process of its own.
int run_alone(const BenchArguments& options) {
  const TrainingSpeed speed = measure_training_speed(speed_recipe(options.model), options.steps);
  Json result;
  result["tokens_per_s"] = speed.tokens_per_s;
  result["peak_memory_bytes"] = speed.peak_memory_bytes;
  result["loss"] = speed.loss;
  result["parameters"] = speed.parameters;
  print_json(result);
  return 0;
}

Pair run_pair(const BenchArguments& options, const std::string& model) {
  const std::vector<std::string> sizes = {"--model",   model,
                                          "--steps",   std::to_string(options.steps),
                                          "--threads", std::to_string(at::get_num_threads())};
  std::vector<std::string> ours = {own_program(), "bench", "train", "--alone"};
  std::vector<std::string> peer = {options.python, options.peer};
  ours.insert(ours.end(), sizes.begin(), sizes.end());
  peer.insert(peer.end(), sizes.begin(), sizes.end());
  return {run_child(ours), run_child(peer)};
}

// Medians over repetitions; the ratios are medians of the ratios of each pair.
Json summarize(const std::string& model, const std::vector<Pair>& pairs) {
  std::vector<double> ours, peer, ratio, memory_ratio, memory, peer_memory;
  for (const Pair& pair : pairs) {
    ours.push_back(pair.ours["tokens_per_s"]);
    peer.push_back(pair.peer["tokens_per_s"]);
    memory.push_back(pair.ours["peak_memory_bytes"]);
    peer_memory.push_back(pair.peer["peak_memory_bytes"]);
    ratio.push_back(ours.back() / peer.back());
    memory_ratio.push_back(memory.back() / peer_memory.back());
  }
  Json result;
  result["model"] = model;
  result["parameters"] = pairs[0].ours["parameters"];
  result["tokens_per_s"] = median(ours);
  result["peer_tokens_per_s"] = median(peer);
  result["ratio"] = median(ratio);
  result["peak_memory_bytes"] = median(memory);
  result["peer_peak_memory_bytes"] = median(peer_memory);
  result["peak_memory_ratio"] = median(memory_ratio);
  return result;
}

void print_table(const Json& models) {
  fmt::print("{:<6} {:>12} {:>14} {:>14} {:>7} {:>10} {:>10} {:>7}\n", "model", "parameters",
             "osp tokens/s", "peer tokens/s", "ratio", "osp peak", "peer peak", "ratio");
  for (const Json& m : models) {
    fmt::print("{:<6} {:>12} {:>14.0f} {:>14.0f} {:>7.2f} {:>10} {:>10} {:>7.2f}\n",
               m["model"].get<std::string>(), format_count(m["parameters"].get<int64_t>()),
               m["tokens_per_s"].get<double>(), m["peer_tokens_per_s"].get<double>(),
               m["ratio"].get<double>(), format_bytes(m["peak_memory_bytes"].get<double>()),
               format_bytes(m["peer_peak_memory_bytes"].get<double>()),
               m["peak_memory_ratio"].get<double>());
  }
}

int run_train(const BenchArguments& options) {
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  if (options.alone) return run_alone(options);
  check_peer(options.python, options.peer);
  Console console(options.common.quiet);
  std::vector<std::string> names = {"demo", "50m"};
  if (options.model != "all") names = {options.model};
  Json models = Json::array();
  for (const std::string& name : names) {
    std::vector<Pair> pairs;
    for (int64_t i = 0; i < options.repetitions; ++i) {
      pairs.push_back(run_pair(options, name));
      console.line("{} {}/{}: {:.0f} tokens/s, peer {:.0f}", name, i + 1, options.repetitions,
                   pairs.back().ours["tokens_per_s"].get<double>(),
                   pairs.back().peer["tokens_per_s"].get<double>());
    }
    models.push_back(summarize(name, pairs));
  }
  if (!options.common.json) {
    print_table(models);
    return 0;
  }
  Json result = models[0];  // the first model's numbers at the top level, all in `models`
  result["steps"] = options.steps;
  result["repetitions"] = options.repetitions;
  result["threads"] = at::get_num_threads();
  result["models"] = models;
  print_json(result);
  return 0;
}

}  // namespace

void add_bench(CommandLine& line) {
  auto options = std::make_shared<BenchArguments>();
  Command command = line.command("bench", "speed beside a named peer, in turn");
  Command train = command.part("train", "the training step beside eager PyTorch");
  add_common_options(train, options->common);
  train.add("--model", options->model, "demo, 50m or all").one_of({"demo", "50m", "all"});
  train.add("--steps", options->steps, "timed steps of each run, after one that is not")
      .between(int64_t{1}, int64_t{100000});
  train.add("--repetitions", options->repetitions, "runs of each side")
      .between(int64_t{1}, int64_t{1000});
  train.add("--threads", options->threads, "threads of both sides; 0: the default")
      .between(int64_t{0}, int64_t{4096});
  train.add("--python", options->python, "interpreter of the peer");
  train.add("--peer", options->peer, "script of the peer");
  train.add("--alone", options->alone, "time osp in this process, without the peer");
  train.runs([options] { return run_train(*options); });
  add_bench_quantize(command);
  add_bench_eval(command);
  add_bench_optim(command);
}

}  // namespace osp
