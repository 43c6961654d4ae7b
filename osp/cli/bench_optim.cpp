// osp bench optim: one step of the optimizers on the banks of a named model, without forward and
// backward, beside PyTorch's (bench/peers/optim_peer.py); in turn, each in a process of its own.
// Every optimizer group (Muon's matrices, Adam's tables) is timed by itself. Forward and backward
// are timed apart, once for all optimizers, and added up to the throughput of a step of many
// tokens.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/provenance.h"
#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/bench/child.h"
#include "osp/bench/optimizer_speed.h"
#include "osp/cli/command.h"
#include "osp/cli/turn_options.h"

namespace osp {
namespace {

// Values of optim.name that can be timed.
constexpr std::array kOptimizers = {"osp", "muon", "adam", "adafactor", "shampoo", "soap", "kfac"};

struct BenchOptimArguments {
  CommonOptions common;
  std::string model = "125m";
  std::vector<std::string> optimizers = {"osp"};
  int64_t batch_tokens = 131072;
  TurnOptions turn = {.peer = "bench/peers/optim_peer.py"};
  std::string updates;
  bool alone = false;
};

// Names that the peer's script knows, of what a kind of optimizer is compared with.
std::vector<std::string> peers_of(const std::string& kind) {
  if (kind == "muon") return {"torch-muon", "batched-muon"};
  if (kind == "adam") return {"fused-adamw"};
  return {};
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
  const OptimizerSpeed speed = measure_optimizer_speed(timed_model(options.model), config,
                                                       options.turn.steps, options.updates);
  Json groups = Json::array();
  for (const GroupSpeed& group : speed.groups) {
    groups.push_back({{"group", group.name},
                      {"kind", to_string(group.kind)},
                      {"banks", group.banks},
                      {"parameters", group.parameters},
                      {"bytes", group.bytes},
                      {"formula_bytes", group.formula_bytes},
                      {"seconds", group.seconds},
                      {"cpu_seconds", group.cpu_seconds}});
  }
  print_json({{"groups", groups},
              {"startup_seconds", speed.startup_seconds},
              {"peak_memory_bytes", speed.peak_memory_bytes}});
  return 0;
}

// A run of one side: `command`, what both sides are told, and `updates` if there is a file for
// them.
Json run_side(const BenchOptimArguments& options, std::vector<std::string> command,
              const std::string& updates) {
  const std::vector<std::string> turn = options.turn.words();
  command.insert(command.end(), turn.begin(), turn.end());
  if (!updates.empty()) command.insert(command.end(), {"--updates", updates});
  return run_child(command);
}

Json run_ours(const BenchOptimArguments& options, const std::string& optimizer,
              const std::string& updates) {
  return run_side(options,
                  {own_program(), "bench", "optim", "--alone", "--model", options.model,
                   "--optimizers", optimizer},
                  updates);
}

Json run_peer(const BenchOptimArguments& options, const std::string& peer, const Json& group,
              const std::string& updates) {
  std::vector<std::string> shapes;
  for (const auto& bank : group["banks"].get<std::vector<std::vector<int64_t>>>()) {
    shapes.push_back(fmt::format("{}", fmt::join(bank, "x")));
  }
  return run_side(
      options,
      {options.turn.python, options.turn.peer, peer, fmt::format("{}", fmt::join(shapes, ","))},
      group["kind"] == "muon" ? updates : "");
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
  Json json = {
      {"group", first["group"]},
      {"kind", first["kind"]},
      {"banks", first["banks"]},
      {"parameters", first["parameters"]},
      {"seconds", median(numbers(row.runs, "seconds"))},
      {"cpu_seconds", median(numbers(row.runs, "cpu_seconds"))},
      {"bytes_per_parameter", per_parameter(first["bytes"], first["parameters"])},
      {"formula_bytes_per_parameter", per_parameter(first["formula_bytes"], first["parameters"])},
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
  for (int64_t i = 0; i < options.turn.repetitions; ++i) {
    // Once is enough: the updates do not depend on the run but for the random gradient.
    const std::string updates = i == 0 ? folder / "updates.safetensors" : "";
    runs.push_back(run_ours(options, name, updates));
    const Json& groups = runs.back()["groups"];
    rows.resize(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      rows[g].runs.push_back(groups[g]);
      for (const std::string& peer : peers_of(groups[g]["kind"])) {
        rows[g].peers[peer].push_back(run_peer(options, peer, groups[g], updates));
      }
    }
    console.line("{} {}/{}", name, i + 1, options.turn.repetitions);
  }
  Json result = {{"optimizer", name},
                 {"startup_seconds", median(numbers(runs, "startup_seconds"))},
                 {"peak_memory_bytes", median(numbers(runs, "peak_memory_bytes"))},
                 {"groups", Json::array()}};
  double seconds = 0, parameters = 0, bytes = 0, formula_bytes = 0;
  for (const Row& row : rows) {
    result["groups"].push_back(summary_of_row(row));
    const Json& first = row.runs[0];
    seconds += result["groups"].back()["seconds"].get<double>();
    parameters += first["parameters"].get<double>();
    bytes += first["bytes"].get<double>();
    formula_bytes += first["formula_bytes"].get<double>();
  }
  result["step_seconds"] = seconds;
  result["bytes_per_parameter"] = bytes / parameters;
  result["formula_bytes_per_parameter"] = formula_bytes / parameters;
  return result;
}

// Seconds of forward and backward a token, in the step of `osp bench train` with this optimizer,
// which matters where it watches the passes (K-FAC).
double seconds_per_token(const BenchOptimArguments& options, const std::string& optimizer,
                         Console& console) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < options.turn.repetitions; ++i) {
    const Json run = run_side(options,
                              {own_program(), "bench", "train", "--alone", "--model", options.model,
                               "--set", "optim.name=" + optimizer},
                              "");
    seconds.push_back((run["step_seconds"].get<double>() - run["optimizer_seconds"].get<double>()) /
                      run["batch_tokens"].get<double>());
    console.line("forward and backward ({}) {}/{}", optimizer, i + 1, options.turn.repetitions);
  }
  return median(seconds);
}

// Adds to every optimizer what a step of so many tokens takes with it, and, where Adam was timed,
// the throughput beside Adam's.
void add_throughput(const BenchOptimArguments& options, Json& optimizers, Console& console) {
  const double tokens = static_cast<double>(options.batch_tokens);
  const double common = seconds_per_token(options, "adam", console);
  double adam = 0;
  for (Json& optimizer : optimizers) {
    const bool watches = optimizer["optimizer"] == "kfac";
    const double passes = watches ? seconds_per_token(options, "kfac", console) : common;
    optimizer["seconds_per_token"] = passes;
    optimizer["tokens_per_s"] =
        tokens / (tokens * passes + optimizer["step_seconds"].get<double>());
    if (optimizer["optimizer"] == "adam") adam = optimizer["tokens_per_s"];
  }
  if (adam == 0) return;
  for (Json& optimizer : optimizers) {
    optimizer["relative_throughput"] = optimizer["tokens_per_s"].get<double>() / adam;
  }
}

// What OSP's step takes longer than Adam's, as a share of the latter, against the tokens of a step;
// beside it the share of the model's FLOPs (6 P a token) that five plain Newton–Schulz steps are:
// 30 P n / (6 P B) = 5 n / B for P parameters in square matrices of n columns and B tokens.
Json overhead_curve(const Json& optimizers, int64_t width) {
  const auto of = [&](const char* name) {
    return std::ranges::find_if(optimizers, [&](const Json& o) { return o["optimizer"] == name; });
  };
  const auto osp = of("osp"), adam = of("adam");
  Json curve = Json::array();
  if (osp == optimizers.end() || adam == optimizers.end()) return curve;
  const double osp_step = (*osp)["step_seconds"], adam_step = (*adam)["step_seconds"];
  const double passes = (*adam)["seconds_per_token"];
  for (int64_t tokens = 8192; tokens <= (int64_t{1} << 21); tokens *= 4) {
    const double batch = static_cast<double>(tokens);
    curve.push_back({{"batch_tokens", tokens},
                     {"overhead", (osp_step - adam_step) / (batch * passes + adam_step)},
                     {"model", 5.0 * static_cast<double>(width) / batch}});
  }
  return curve;
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
            text_of(group, "formula_bytes_per_parameter", 2),
            text_of(startup, "startup_seconds", 2), text_of(side, "largest_difference", 4));
      };
      print_side("osp", group, optimizer);
      for (const Json& peer : group["peers"]) {
        print_side(peer["peer"].get<std::string>(), peer, peer);
      }
    }
  }
}

void print_throughput(const Json& optimizers, const Json& curve, int64_t batch_tokens) {
  fmt::print("\nwith forward and backward, {} tokens a step\n", format_count(batch_tokens));
  constexpr const char* kFormat = "{:<9} {:>12} {:>14} {:>9} {:>8} {:>8} {:>9}\n";
  fmt::print(fmt::runtime(kFormat), "optimizer", "s a step", "tokens/s", "of Adam", "B/param",
             "formula", "start, s");
  for (const Json& optimizer : optimizers) {
    fmt::print(fmt::runtime(kFormat), optimizer["optimizer"].get<std::string>(),
               text_of(optimizer, "step_seconds", 4), text_of(optimizer, "tokens_per_s", 1),
               text_of(optimizer, "relative_throughput", 4),
               text_of(optimizer, "bytes_per_parameter", 2),
               text_of(optimizer, "formula_bytes_per_parameter", 2),
               text_of(optimizer, "startup_seconds", 2));
  }
  if (curve.empty()) return;
  fmt::print("\n{:>15} {:>24} {:>8}\n", "tokens a step", "osp longer than adam", "5 n / B");
  for (const Json& point : curve) {
    fmt::print("{:>15} {:>22.2f} % {:>6.2f} %\n",
               format_count(point["batch_tokens"].get<int64_t>()),
               100 * point["overhead"].get<double>(), 100 * point["model"].get<double>());
  }
}

void check_names(const std::vector<std::string>& optimizers) {
  for (const std::string& name : optimizers) {
    if (std::ranges::find(kOptimizers, name) == kOptimizers.end()) {
      fail(ErrorCode::usage, "--optimizers {}: unknown; known are {}", name,
           fmt::join(kOptimizers, ", "));
    }
  }
}

int run(const BenchOptimArguments& options) {
  check_names(options.optimizers);
  options.turn.use_threads();
  if (options.alone) return run_alone(options);
  check_peer(options.turn.python, options.turn.peer);
  Console console(options.common.quiet);
  Json optimizers = Json::array();
  for (const std::string& name : options.optimizers) {
    optimizers.push_back(bench_optimizer(options, name, console));
  }
  Json curve = Json::array();
  const TimedModel model = timed_model(options.model);
  const bool with_passes = options.batch_tokens > 0 && !model.part;
  if (with_passes) {
    add_throughput(options, optimizers, console);
    curve = overhead_curve(optimizers, model.config.width);
  }
  if (!options.common.json) {
    print_rows(optimizers);
    if (with_passes) print_throughput(optimizers, curve, options.batch_tokens);
    return 0;
  }
  Json result = {{"model", options.model},
                 {"steps", options.turn.steps},
                 {"repetitions", options.turn.repetitions},
                 {"threads", at::get_num_threads()},
                 {"batch_tokens", options.batch_tokens},
                 {"optimizers", optimizers},
                 {"overhead", curve}};
  record_provenance(result);
  print_json(result);
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
  command
      .add("--batch-tokens", options->batch_tokens,
           "tokens of the step whose throughput is reckoned with forward and backward; 0: none")
      .between(int64_t{0}, int64_t{1} << 40);
  add_turn_options(command, options->turn);
  command.add("--updates", options->updates,
              "with --alone: safetensors file for gradients and what Muon makes of them");
  command.add("--alone", options->alone, "time osp in this process, without the peers");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
