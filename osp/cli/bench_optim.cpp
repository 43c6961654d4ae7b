// osp bench optim: one step of the optimizers on the banks of a named model, without forward and
// backward, beside PyTorch's (bench/peers/optim_peer.py); in turn, each in a process of its own.
// Every optimizer group (Muon's matrices, Adam's tables) is timed by itself. Forward and backward
// are timed apart, once for all optimizers, and added up to the throughput of a step of many
// tokens. The arithmetic is in osp/bench/optimizer_bench.h.
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/output.h"
#include "osp/bench/optimizer_bench.h"
#include "osp/cli/command.h"
#include "osp/ops/result_origin.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

struct BenchOptimCommand {
  CommonOptions common;
  OptimizerBench bench;
  std::string updates;
  bool alone = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    OptimizerBench::fields(visit, self.bench);
    visit.group("Measuring");
    visit("alone", self.alone, "time osp in this process, without the peers");
    visit("updates", self.updates, "safetensors file to write gradients and Muon's updates to",
          {.value = "FILE", .needs = "alone"});
    TurnOptions::fields(visit, self.bench.turn);
    CommonOptions::fields(visit, self.common);
  }
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
  std::optional<ReservedOutput> place;
  if (!updates.empty()) place.emplace(updates, OutputKind::file, "--updates");
  OptimConfig config;
  config.name = bench.optimizers[0];
  print_json(optimizer_speed_json(
      measure_optimizer_speed(timed_model(bench.model), config, bench.turn.steps, updates)));
  return 0;
}

int run_bench_optim(const BenchOptimCommand& options) {
  const OptimizerBench& bench = options.bench;
  check_names(bench.optimizers);
  bench.turn.use_threads();
  if (options.alone) {
    refuse_given(options.common, {"batch_tokens", "repetitions", "python", "peer"},
                 "is about the comparison with the peers, which --alone leaves out");
    if (bench.optimizers.size() > 1) {
      fail(ErrorCode::usage, "--alone times one optimizer, {} were given", bench.optimizers.size());
    }
    return time_alone(bench, options.updates);
  }
  check_peer(bench.turn.python, bench.turn.peer);
  Console console(options.common.quiet);
  const Json measured = bench_optimizers(bench, console);
  const Json& optimizers = measured["optimizers"];
  if (!options.common.json) {
    print_out("{}", group_table(optimizers));
    if (optimizers[0].contains("tokens_per_s")) {
      print_out("\n{}", throughput_table(optimizers, measured["overhead"], bench.batch_tokens));
    }
    return 0;
  }
  Json result = {{"model", bench.model},
                 {"steps", bench.turn.steps},
                 {"repetitions", bench.turn.repetitions},
                 {"threads", at::get_num_threads()},
                 {"batch_tokens", bench.batch_tokens}};
  result.update(measured);
  record_timed_origin(result);
  print_json(result);
  return 0;
}

}  // namespace

void add_bench_optim(Command& bench) {
  bench.part<BenchOptimCommand>("optim", "compare the optimizer's step with PyTorch",
                                run_bench_optim);
}

}  // namespace osp
