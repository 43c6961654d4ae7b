// osp bench optim: one step of the optimizers on the banks of a named model, without forward and
// backward, beside PyTorch's (bench/peers/optim_peer.py); in turn, each in a process of its own.
// Every optimizer group (Muon's matrices, Adam's tables) is timed by itself. Forward and backward
// are timed apart, once for all optimizers, and added up to the throughput of a step of many
// tokens. The arithmetic is in osp/bench/optimizer_bench.h.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/provenance.h"
#include "osp/bench/optimizer_bench.h"
#include "osp/cli/command.h"
#include "osp/cli/turn_options.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

struct BenchOptimArguments {
  CommonOptions common;
  OptimizerBench bench;
  std::string updates;
  bool alone = false;
};

void check_names(const std::vector<std::string>& optimizers) {
  const std::vector<std::string> known = recipe_optimizer_names();
  for (const std::string& name : optimizers) {
    if (std::ranges::find(known, name) == known.end()) {
      fail(ErrorCode::usage, "--optimizers {}: unknown; known are {}", name,
           fmt::join(known, ", "));
    }
  }
}

// The part that is timed, in a process of its own.
int time_alone(const OptimizerBench& bench, const std::string& updates) {
  OptimConfig config;
  config.name = bench.optimizers[0];
  print_json(optimizer_speed_json(
      measure_optimizer_speed(timed_model(bench.model), config, bench.turn.steps, updates)));
  return 0;
}

int run_bench_optim(const BenchOptimArguments& options) {
  const OptimizerBench& bench = options.bench;
  check_names(bench.optimizers);
  bench.turn.use_threads();
  if (options.alone) return time_alone(bench, options.updates);
  check_peer(bench.turn.python, bench.turn.peer);
  Console console(options.common.quiet);
  const Json measured = bench_optimizers(bench, console);
  const Json& optimizers = measured["optimizers"];
  if (!options.common.json) {
    fmt::print("{}", group_table(optimizers));
    if (optimizers[0].contains("tokens_per_s")) {
      fmt::print("\n{}", throughput_table(optimizers, measured["overhead"], bench.batch_tokens));
    }
    return 0;
  }
  Json result = {{"model", bench.model},
                 {"steps", bench.turn.steps},
                 {"repetitions", bench.turn.repetitions},
                 {"threads", at::get_num_threads()},
                 {"batch_tokens", bench.batch_tokens}};
  result.update(measured);
  record_provenance(result);
  print_json(result);
  return 0;
}

}  // namespace

void add_bench_optim(Command& bench) {
  auto options = std::make_shared<BenchOptimArguments>();
  Command command = bench.part("optim", "the optimizer's step beside PyTorch's");
  add_common_options(command, options->common);
  command
      .add("--model", options->bench.model,
           "whose banks are stepped; 1.4b-layer is one block of it")
      .one_of({"demo", "50m", "125m", "1.4b-layer"});
  command.add("--optimizers", options->bench.optimizers,
              fmt::format("as in optim.name, of {}; may be repeated",
                          fmt::join(recipe_optimizer_names(), ", ")));
  command
      .add("--batch-tokens", options->bench.batch_tokens,
           "tokens of the step whose throughput is reckoned with forward and backward; 0: none")
      .between(int64_t{0}, int64_t{1} << 40);
  add_turn_options(command, options->bench.turn);
  command.add("--updates", options->updates,
              "with --alone: safetensors file for gradients and what Muon makes of them");
  command.add("--alone", options->alone, "time osp in this process, without the peers");
  command.runs([options] { return run_bench_optim(*options); });
}

}  // namespace osp
