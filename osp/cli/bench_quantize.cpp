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

struct BenchQuantizeCommand {
  CommonOptions common;
  QuantizeBench bench;
  bool alone = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    QuantizeBench::fields(visit, self.bench);
    visit("alone", self.alone, "time osp alone, without the peer");
    CommonOptions::fields(visit, self.common);
  }
};

int run_bench_quantize(const BenchQuantizeCommand& options) {
  const QuantizeBench& bench = options.bench;
  if (!options.alone) check_peer(bench.python, bench.peer);
  Console console(options.common.quiet);
  std::vector<QuantizeRun> runs;
  for (const int64_t part : {4, 2, 1}) {
    runs.push_back(run_our_quantize(bench, std::max<int64_t>(1, bench.windows / part)));
    console.line("osp, {} windows: {:.1f} s", runs.back().samples, runs.back().seconds);
  }
  Json peer;
  if (!options.alone) peer = run_peer_quantize(bench);
  if (options.common.json) {
    print_json(quantize_bench_json(bench.model, runs, peer));
  } else {
    print_out("{}", quantize_bench_table(runs, peer));
  }
  return 0;
}

}  // namespace

void add_bench_quantize(Command& bench) {
  bench.part<BenchQuantizeCommand>("quantize", "compare GPTQ of a model folder with GPTQModel",
                                   run_bench_quantize);
}

}  // namespace osp
