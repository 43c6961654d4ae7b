// osp bench ranks: many processes that train one model, beside PyTorch's (osp/bench/ranks_bench.h).
#include "osp/bench/ranks_bench.h"

#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/bench/speed.h"
#include "osp/bench/turn.h"
#include "osp/cli/command.h"
#include "osp/ops/result_origin.h"
#include "osp/ranks/ranks.h"

namespace osp {
namespace {

struct BenchRanksCommand {
  CommonOptions common;
  RanksBench bench = {.python = ".venv/bin/python",
                      .launcher = "bench/ranks_launch.py",
                      .peer = "bench/peers/train_ranks.py"};
  std::vector<std::string> rates = {"none", "1gbit", "200mbit"};
  std::vector<std::string> ways{std::begin(kRanksPeerWays), std::end(kRanksPeerWays)};
  int64_t repetitions = 3;
  std::string osp_way = kRanksOspWays[0];
  bool alone = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Model");
    visit("model", self.bench.model, Choices{{"demo", "50m", "125m"}},
          "model to train; demo = that of recipes/demo-7m-osp.toml");
    visit("batch_tokens", self.bench.batch_tokens, Range{1, 1 << 30},
          "length of a step, all ranks together", {.unit = "tokens"});
    visit.group("Ranks and network");
    visit("ranks", self.bench.ranks, Range{2, 256}, "number of processes, all on this machine");
    visit("rate", self.rates,
          "limit of what each rank sends and receives, as `tc` names it; none = no limit. Limits "
          "need root",
          {.value = "RATE"});
    visit("threads", self.bench.threads, Range{1, 4096}, "number of threads of each rank");
    visit.group("Timing");
    visit("steps", self.bench.steps, Range{1, 100000},
          "number of timed steps per run, after one step that is not timed");
    visit("repetitions", self.repetitions, Range{1, 1000},
          "number of runs of each side and network, in turn");
    visit("alone", self.alone,
          "train as one of the ranks and print its times; the launcher starts every rank of osp "
          "with this option");
    visit(
        "osp_way", self.osp_way, Choices{{"exact", "bf16"}},
        "with --alone, how gradients travel: exact = in fp32, with the same bits on any number of "
        "ranks; bf16 = rounded to bf16 (train.reduce_precision)");
    visit.group("Peers");
    visit("way", self.ways,
          "how PyTorch's ranks share the work: ddp-bf16, ddp, fsdp2, muon-fsdp2 (the package of "
          "that name)",
          {.value = "WAY"});
    visit("python", self.bench.python, "Python interpreter that runs ranks and peers",
          {.value = "FILE"});
    visit("peer", self.bench.peer, "script of the peers", {.value = "FILE"});
    visit("launcher", self.bench.launcher, "script that starts the ranks, each in its network",
          {.value = "FILE"});
    CommonOptions::fields(visit, self.common);
  }
};

// The part that is timed: one rank, in this process.
int time_rank(const RanksBench& bench, const std::string& way) {
  const Ranks ranks = Ranks::of_process();
  std::vector<std::string> assignments = {fmt::format("train.batch_tokens={}", bench.batch_tokens),
                                          fmt::format("train.reduction_groups={}", ranks.size())};
  if (way == "bf16") {
    assignments.insert(assignments.end(),
                       {"train.exact_ranks=false", "train.reduce_precision=bf16"});
  }
  const Recipe recipe = speed_recipe(bench.model, 0, assignments);
  const TrainingSpeed speed = measure_training_speed(recipe, bench.steps, false, ranks);
  print_json({{"step_seconds", speed.step_seconds},
              {"cpu_seconds", speed.cpu_seconds},
              {"sent_bytes", speed.sent_bytes < 0 ? Json() : Json(speed.sent_bytes)},
              {"peak_memory_bytes", speed.peak_memory_bytes},
              {"loss", speed.loss}});
  return 0;
}

void check_ways(const std::vector<std::string>& ways) {
  for (const std::string& way : ways) {
    if (std::ranges::find(kRanksPeerWays, way) != std::end(kRanksPeerWays)) continue;
    fail(ErrorCode::usage, "--way: \"{}\" is none of {}", way, fmt::join(kRanksPeerWays, ", "));
  }
  if (ways.empty()) fail(ErrorCode::usage, "--way: name at least one");
}

// Runs one side once more and says how fast it was.
void add_run(RanksRuns& side, const Json& run, Console& console) {
  side.runs.push_back(run);
  console.line("  {}: {:.3f} steps/s", side.name, run["steps_per_s"].get<double>());
}

// Refuses, before hours of measuring, a step that the peers cannot share evenly, and networks that
// cannot be made.
void check_runs(const BenchRanksCommand& options) {
  const RanksBench& bench = options.bench;
  const int64_t of_ranks = speed_recipe(bench.model).model.context * bench.ranks;
  if (bench.batch_tokens % of_ranks != 0) {
    fail(ErrorCode::usage,
         "--batch-tokens {}: {} ranks share a step's sequences evenly where it is a multiple of "
         "{}; give {}",
         bench.batch_tokens, bench.ranks, of_ranks,
         std::max<int64_t>(1, bench.batch_tokens / of_ranks) * of_ranks);
  }
  for (const std::string& rate : options.rates) try_network(bench, rate == "none" ? "" : rate);
}

// All runs on one network, in turn.
Json bench_network(const BenchRanksCommand& options, const std::string& rate,
                   const RanksPeer& tuned, Console& console) {
  std::vector<RanksRuns> ours, peers;
  for (const char* way : kRanksOspWays) ours.push_back({std::string("osp, ") + way, {}});
  for (const std::string& way : options.ways) {
    const bool compiled = way.starts_with("ddp") && tuned.mode == "compile";
    peers.push_back({compiled ? way + ", compiled" : way, {}});
  }
  for (int64_t i = 0; i < options.repetitions; ++i) {
    console.line("{} network, {}/{}", rate.empty() ? "unlimited" : rate, i + 1,
                 options.repetitions);
    for (size_t w = 0; w < ours.size(); ++w) {
      add_run(ours[w], run_ranks_osp(options.bench, rate, kRanksOspWays[w]), console);
    }
    for (size_t w = 0; w < options.ways.size(); ++w) {
      RanksPeer peer = tuned;
      peer.way = options.ways[w];
      if (!peer.way.starts_with("ddp")) peer.mode = "eager";
      add_run(peers[w], run_ranks_peer(options.bench, rate, peer), console);
    }
  }
  Json result = summarize_ranks(rate, ours, peers);
  result["versions"] = peers[0].runs[0].value("versions", Json());
  return result;
}

int run_bench_ranks(const BenchRanksCommand& options) {
  if (options.alone) {
    refuse_given(options.common,
                 {"rate", "way", "repetitions", "python", "peer", "launcher", "ranks", "threads"},
                 "is about the comparison with the peers, which --alone leaves out");
    return time_rank(options.bench, options.osp_way);
  }
  refuse_given(options.common, {"osp_way"}, "is about --alone");
  check_ways(options.ways);
  check_peer(options.bench.python, options.bench.peer);
  check_peer(options.bench.python, options.bench.launcher);
  Console console(options.common.quiet);
  check_runs(options);
  Json trials = Json::array();
  const auto measure = [&](const RanksPeer& peer) {
    const double rate = run_ranks_peer(options.bench, "", peer)["steps_per_s"].get<double>();
    console.line("trial: {}, {}, {}: {:.3f} steps/s", peer.way, peer.mode, peer.settings.name,
                 rate);
    return rate;
  };
  const RanksPeer tuned = tune_ranks_peer(measure, trials);
  Json networks = Json::array();
  for (const std::string& rate : options.rates) {
    networks.push_back(bench_network(options, rate == "none" ? "" : rate, tuned, console));
  }
  if (!options.common.json) {
    print_out("{}", ranks_table(networks));
    return 0;
  }
  Json result = {{"model", options.bench.model},
                 {"batch_tokens", options.bench.batch_tokens},
                 {"ranks", options.bench.ranks},
                 {"threads", options.bench.threads},
                 {"steps", options.bench.steps},
                 {"repetitions", options.repetitions},
                 {"peer_settings", tuned.settings.name},
                 {"peer_trials", trials},
                 {"networks", networks}};
  record_timed_origin(result);
  print_json(result);
  return 0;
}

}  // namespace

void add_bench_ranks(Command& bench) {
  bench.part<BenchRanksCommand>("ranks", "compare training with several processes with PyTorch",
                                run_bench_ranks);
}

}  // namespace osp
