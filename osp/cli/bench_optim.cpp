// osp bench optim: one step of the optimizers on the banks of a named model, without forward and
// backward, beside PyTorch's (bench/peers/optim_peer.py); in turn, each in a process of its own.
// Every optimizer group (Muon's matrices, Adam's tables) is timed by itself.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <array>
#include <map>
#include <memory>

#include "osp/base/temporary_folder.h"
#include "osp/cli/child.h"
#include "osp/cli/command.h"
#include "osp/train/optimizer_speed.h"

namespace osp {
namespace {

// Values of optim.name that can be timed.
constexpr std::array kOptimizers = {"osp", "adam"};

struct BenchOptimArguments {
  CommonOptions common;
  std::string model = "125m";
  std::vector<std::string> optimizers = {"osp"};
  int64_t steps = 3;
  int64_t repetitions = 3;
  int64_t threads = 0;
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/optim_peer.py";
  std::string updates;
  bool alone = false;
};

// What a kind of optimizer is compared with (names that the peer's script knows), and the bytes a
// parameter that its fp32 weights and state should take.
struct Comparison {
  std::vector<std::string> peers;
  double bytes_per_parameter;
};

Comparison comparison_of(const std::string& kind) {
  static const std::map<std::string, Comparison> known = {
      {"muon", {{"torch-muon", "batched-muon"}, 8}}, {"adam", {{"fused-adamw"}, 12}}};
  const auto found = known.find(kind);
  return found == known.end() ? Comparison{{}, 0} : found->second;
}

// One row of the table: a group of one optimizer over all repetitions.
struct Row {
  std::vector<Json> runs;                          // of ours
  std::map<std::string, std::vector<Json>> peers;  // what each printed, by repetition
};

// The part that is timed, in a process of its own.
int run_alone(const BenchOptimArguments& options) {
  OptimConfig config;
  config.name = options.optimizers[0];
  const OptimizerSpeed speed =
      measure_optimizer_speed(timed_model(options.model), config, options.steps, options.updates);
  Json groups = Json::array();
  for (const GroupSpeed& group : speed.groups) {
    groups.push_back({{"group", group.name},
                      {"kind", to_string(group.kind)},
                      {"banks", group.banks},
                      {"parameters", group.parameters},
                      {"bytes", group.bytes},
                      {"seconds", group.seconds},
                      {"cpu_seconds", group.cpu_seconds}});
  }
  print_json({{"groups", groups},
              {"startup_seconds", speed.startup_seconds},
              {"peak_memory_bytes", speed.peak_memory_bytes}});
  return 0;
}

Json run_ours(const BenchOptimArguments& options, const std::string& optimizer,
              const std::string& updates) {
  std::vector<std::string> command = {own_program(),  "bench",
                                      "optim",        "--alone",
                                      "--model",      options.model,
                                      "--optimizers", optimizer,
                                      "--steps",      std::to_string(options.steps),
                                      "--threads",    std::to_string(at::get_num_threads())};
  if (!updates.empty()) command.insert(command.end(), {"--updates", updates});
  return run_child(command);
}

Json run_peer(const BenchOptimArguments& options, const std::string& peer, const Json& group,
              const std::string& updates) {
  std::vector<std::string> shapes;
  for (const auto& bank : group["banks"].get<std::vector<std::vector<int64_t>>>()) {
    shapes.push_back(fmt::format("{}", fmt::join(bank, "x")));
  }
  std::vector<std::string> command = {options.python, options.peer,
                                      peer,           fmt::format("{}", fmt::join(shapes, ",")),
                                      "--steps",      std::to_string(options.steps),
                                      "--threads",    std::to_string(at::get_num_threads())};
  if (!updates.empty() && group["kind"] == "muon") {
    command.insert(command.end(), {"--updates", updates});
  }
  return run_child(command);
}

std::vector<double> numbers(const std::vector<Json>& results, const std::string& key) {
  std::vector<double> values;
  for (const Json& result : results) values.push_back(result[key]);
  return values;
}

double per_parameter(const Json& bytes, const Json& parameters) {
  return bytes.get<double>() / parameters.get<double>();
}

// The peer's numbers over ours, repetition by repetition.
std::vector<double> ratios_of(const std::vector<Json>& peer, const std::vector<Json>& ours,
                              const std::string& key) {
  std::vector<double> ratios;
  for (size_t i = 0; i < peer.size(); ++i) {
    ratios.push_back(peer[i][key].get<double>() / ours[i][key].get<double>());
  }
  return ratios;
}

// Medians over the repetitions; ratios are medians of those of each pair.
Json summary_of_row(const Row& row) {
  const Json& first = row.runs[0];
  const double formula = comparison_of(first["kind"]).bytes_per_parameter;
  Json json = {{"group", first["group"]},
               {"kind", first["kind"]},
               {"banks", first["banks"]},
               {"parameters", first["parameters"]},
               {"seconds", median(numbers(row.runs, "seconds"))},
               {"cpu_seconds", median(numbers(row.runs, "cpu_seconds"))},
               {"bytes_per_parameter", per_parameter(first["bytes"], first["parameters"])},
               {"formula_bytes_per_parameter", formula > 0 ? Json(formula) : Json(nullptr)},
               {"peers", Json::array()}};
  for (const auto& [name, results] : row.peers) {
    const std::vector<double> ratios = ratios_of(results, row.runs, "seconds");
    Json peer = {{"peer", name},
                 {"seconds", median(numbers(results, "seconds"))},
                 {"cpu_seconds", median(numbers(results, "cpu_seconds"))},
                 {"ratio", median(ratios)},
                 {"cpu_ratio", median(ratios_of(results, row.runs, "cpu_seconds"))},
                 {"ratios", ratios},
                 {"bytes_per_parameter", per_parameter(results[0]["bytes"], first["parameters"])},
                 {"startup_seconds", median(numbers(results, "startup_seconds"))},
                 {"peak_memory_bytes", median(numbers(results, "peak_memory_bytes"))}};
    for (const char* key : {"largest_difference", "error", "peer_error"}) {
      if (results[0].contains(key)) peer[key] = results[0][key];
    }
    json["peers"].push_back(peer);
  }
  return json;
}

// All runs of one optimizer: ours and the peers of each of its groups, in turn.
Json bench_optimizer(const BenchOptimArguments& options, const std::string& name,
                     Console& console) {
  const TemporaryFolder folder;
  std::vector<Row> rows;
  std::vector<Json> runs;
  for (int64_t i = 0; i < options.repetitions; ++i) {
    // Once is enough: the updates do not depend on the run but for the random gradient.
    const std::string updates = i == 0 ? folder / "updates.safetensors" : "";
    runs.push_back(run_ours(options, name, updates));
    const Json& groups = runs.back()["groups"];
    rows.resize(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      rows[g].runs.push_back(groups[g]);
      for (const std::string& peer : comparison_of(groups[g]["kind"]).peers) {
        rows[g].peers[peer].push_back(run_peer(options, peer, groups[g], updates));
      }
    }
    console.line("{} {}/{}", name, i + 1, options.repetitions);
  }
  Json result = {{"optimizer", name},
                 {"startup_seconds", median(numbers(runs, "startup_seconds"))},
                 {"peak_memory_bytes", median(numbers(runs, "peak_memory_bytes"))},
                 {"groups", Json::array()}};
  for (const Row& row : rows) result["groups"].push_back(summary_of_row(row));
  return result;
}

// A number if there is one.
std::string text_of(const Json& object, const char* key, int digits) {
  if (!object.contains(key) || object[key].is_null()) return "";
  return fmt::format("{:.{}f}", object[key].get<double>(), digits);
}

void print_rows(const Json& optimizers) {
  constexpr const char* kFormat =
      "{:<9} {:<9} {:>12} {:<13} {:>9} {:>6} {:>9} {:>6} {:>8} {:>8} {:>8} {:>11}\n";
  fmt::print(fmt::runtime(kFormat), "optimizer", "group", "parameters", "by", "s a step", "ratio",
             "CPU s", "ratio", "B/param", "formula", "start, s", "difference");
  for (const Json& optimizer : optimizers) {
    for (const Json& group : optimizer["groups"]) {
      const auto print_side = [&](const std::string& by, const Json& side, const Json& startup) {
        fmt::print(
            fmt::runtime(kFormat), optimizer["optimizer"].get<std::string>(),
            group["group"].get<std::string>(), format_count(group["parameters"].get<int64_t>()), by,
            text_of(side, "seconds", 4), text_of(side, "ratio", 2), text_of(side, "cpu_seconds", 4),
            text_of(side, "cpu_ratio", 2), text_of(side, "bytes_per_parameter", 2),
            text_of(group, "formula_bytes_per_parameter", 0),
            text_of(startup, "startup_seconds", 2), text_of(side, "largest_difference", 4));
      };
      print_side("osp", group, optimizer);
      for (const Json& peer : group["peers"]) {
        print_side(peer["peer"].get<std::string>(), peer, peer);
      }
    }
  }
}

int run(const BenchOptimArguments& options) {
  if (options.threads > 0) at::set_num_threads(static_cast<int>(options.threads));
  if (options.alone) return run_alone(options);
  check_peer(options.python, options.peer);
  Console console(options.common.quiet);
  Json optimizers = Json::array();
  for (const std::string& name : options.optimizers) {
    optimizers.push_back(bench_optimizer(options, name, console));
  }
  if (!options.common.json) {
    print_rows(optimizers);
    return 0;
  }
  print_json({{"model", options.model},
              {"steps", options.steps},
              {"repetitions", options.repetitions},
              {"threads", at::get_num_threads()},
              {"optimizers", optimizers}});
  return 0;
}

}  // namespace

void add_bench_optim(Command& bench) {
  auto options = std::make_shared<BenchOptimArguments>();
  Command command = bench.part("optim", "the optimizer's step beside PyTorch's");
  add_common_options(command, options->common);
  command.add("--model", options->model, "whose banks are stepped; 1.4b-layer is one block of it")
      .one_of({"demo", "50m", "125m", "1.4b-layer"});
  command.add(
      "--optimizers", options->optimizers,
      fmt::format("as in optim.name, of {}; may be repeated", fmt::join(kOptimizers, ", ")));
  command.add("--steps", options->steps, "timed steps of each run, after one that is not")
      .between(int64_t{1}, int64_t{100000});
  command.add("--repetitions", options->repetitions, "runs of each side")
      .between(int64_t{1}, int64_t{1000});
  command.add("--threads", options->threads, "threads of both sides; 0: the default")
      .between(int64_t{0}, int64_t{4096});
  command.add("--python", options->python, "interpreter of the peer");
  command.add("--peer", options->peer, "script of the peer");
  command.add("--updates", options->updates,
              "with --alone: safetensors file for gradients and what Muon makes of them");
  command.add("--alone", options->alone, "time osp in this process, without the peers");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
