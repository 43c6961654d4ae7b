// osp bench quantize: GPTQ of a model folder beside GPTQModel (bench/peers/gptqmodel_peer.py) on
// the same calibration windows at the same precision, one after the other, each in a process of its
// own (osp/bench/quantize_bench.h).
#include <fmt/format.h>

#include <algorithm>
#include <utility>

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
  if (options.alone) {
    refuse_given(options.common, {"python", "peer"}, "is about the peer, which --alone leaves out");
  } else {
    check_peer(bench.python, bench.peer);
  }
  Console console(options.common.quiet);
  const Json windows = options.alone ? Json() : calibration_windows(bench);
  std::vector<QuantizeComparison> comparisons;
  for (const std::string& precision : compared_precisions(bench)) {
    QuantizeComparison compared{
        .precision = precision, .runs = {}, .peer = nullptr, .settings = {}};
    for (const int64_t part : {4, 2, 1}) {
      compared.runs.push_back(
          run_our_quantize(bench, precision, std::max<int64_t>(1, bench.windows / part)));
      console.line("osp, {}, {} windows: {:.1f} s", precision, compared.runs.back().windows,
                   compared.runs.back().seconds);
    }
    if (!options.alone) {
      const PeerSettings settings = tune_quantize_peer(bench, precision, windows, compared.trials);
      console.line("peer, {}: {}", precision, settings.name);
      compared.settings = settings.name;
      compared.peer = run_peer_quantize(bench, precision, settings, windows);
    }
    comparisons.push_back(std::move(compared));
  }
  if (options.common.json) {
    print_json(quantize_bench_json(bench.model, comparisons));
  } else {
    print_out("{}", quantize_bench_table(comparisons));
  }
  return 0;
}

}  // namespace

void add_bench_quantize(Command& bench) {
  bench.part<BenchQuantizeCommand>("quantize", "compare GPTQ of a model folder with GPTQModel",
                                   run_bench_quantize);
}

}  // namespace osp
