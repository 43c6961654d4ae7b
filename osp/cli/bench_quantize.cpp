// osp bench quantize: GPTQ of a model folder beside GPTQModel (bench/peers/gptqmodel_peer.py) on
// the same calibration windows at the same precision, in turn, each in a process of its own
// (osp/bench/quantize_bench.h).
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
  int64_t repetitions = 3;
  bool alone = false;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    QuantizeBench::fields(visit, self.bench);
    visit("repetitions", self.repetitions, Range{1, 1000},
          "number of runs of each side on all windows");
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
    QuantizeComparison compared{.precision = precision, .runs = {}, .settings = {}};
    const auto run_ours = [&](int64_t count) {
      compared.runs.push_back(run_our_quantize(bench, precision, std::max<int64_t>(1, count)));
      console.line("osp, {}, {} windows: {:.1f} s", precision, compared.runs.back().windows,
                   compared.runs.back().seconds);
    };
    PeerSettings settings;
    if (!options.alone) {
      settings = tune_quantize_peer(bench, precision, windows, compared.trials);
      console.line("peer, {}: {}", precision, settings.name);
      compared.settings = settings.name;
    }
    // Few windows first, then all of them in turn with the peer.
    for (const int64_t part : {4, 2}) run_ours(bench.windows / part);
    for (int64_t i = 0; i < options.repetitions; ++i) {
      run_ours(bench.windows);
      if (options.alone) continue;
      compared.peers.push_back(run_peer_quantize(bench, precision, settings, windows));
      console.line("peer, {}: {:.1f} s", precision, compared.peers.back()["seconds"].get<double>());
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
