// osp bench quantize: GPTQ of a model folder beside GPTQModel (bench/peers/gptqmodel_peer.py) on
// the same calibration windows, one after the other, each in a process of its own
// (osp/bench/quantize_bench.h).
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "osp/bench/quantize_bench.h"
#include "osp/bench/turn.h"
#include "osp/cli/command.h"

namespace osp {
namespace {

struct BenchQuantizeArguments {
  CommonOptions common;
  QuantizeBench bench;
  bool alone = false;
};

int run_bench_quantize(const BenchQuantizeArguments& options) {
  const QuantizeBench& bench = options.bench;
  if (!options.alone) check_peer(bench.python, bench.peer);
  Console console(options.common.quiet);
  std::vector<QuantizeRun> runs;
  for (const int64_t part : {4, 2, 1}) {
    runs.push_back(run_our_quantize(bench, std::max<int64_t>(1, bench.samples / part)));
    console.line("osp, {} windows: {:.1f} s", runs.back().samples, runs.back().seconds);
  }
  Json peer;
  if (!options.alone) peer = run_peer_quantize(bench);
  if (options.common.json) {
    print_json(quantize_bench_json(bench.model, runs, peer));
  } else {
    fmt::print("{}", quantize_bench_table(runs, peer));
  }
  return 0;
}

}  // namespace

void add_bench_quantize(Command& bench) {
  auto options = std::make_shared<BenchQuantizeArguments>();
  Command command = bench.part("quantize", "GPTQ of a model folder beside GPTQModel");
  add_common_options(command, options->common);
  add_model_option(command, options->bench.model);
  command
      .add("--calibration", options->bench.calibration,
           "token shards, or a text or JSON lines file")
      .required();
  command
      .add("--samples", options->bench.samples,
           "calibration windows; osp also runs on ½ and ¼ of them")
      .between(int64_t{1}, int64_t{1} << 20);
  command.add("--length", options->bench.length, "tokens of a window")
      .between(int64_t{2}, int64_t{1} << 20);
  command.add("--calibration-type", options->bench.calibration_type, "as in osp quantize")
      .one_of({"auto", "bf16", "fp32"});
  command.add("--python", options->bench.python, "interpreter with the peer's packages");
  command.add("--peer", options->bench.peer, "script of the peer");
  command.add("--alone", options->alone, "without the peer");
  command.runs([options] { return run_bench_quantize(*options); });
}

}  // namespace osp
