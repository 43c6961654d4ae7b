// osp bench quantize: GPTQ of a model folder beside GPTQModel (bench/peers/gptqmodel_peer.py) on
// the same calibration windows, one after the other, each in a process of its own; and how the time
// grows with the windows and lies over the blocks.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/bench/child.h"
#include "osp/cli/command.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/calibration.h"

namespace osp {
namespace {

struct BenchQuantizeArguments {
  CommonOptions common;
  std::string model;
  std::string calibration;
  int64_t samples = 128;
  int64_t length = 2048;
  std::string calibration_type = "auto";
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/gptqmodel_peer.py";
  bool alone = false;
};

// What one run of ours says.
struct Run {
  int64_t samples = 0;
  double seconds = 0.0;  // all blocks, without reading the calibration text
  double peak_memory_bytes = 0.0;
  std::vector<double> blocks;  // seconds of each
};

Run run_ours(const BenchQuantizeArguments& options, int64_t samples) {
  const TemporaryFolder folder;
  const Json json =
      run_child({own_program(), "quantize", options.model, "--method", "gptq", "--bits", "4-16-16",
                 "--calibration", options.calibration, "--windows", std::to_string(samples),
                 "--length", std::to_string(options.length), "--calibration-type",
                 options.calibration_type, "--out", folder / "out", "--json", "--quiet"});
  const Json& totals = json["runs"][0]["report"]["totals"];
  return {.samples = samples,
          .seconds = totals["wall_seconds"],
          .peak_memory_bytes = totals["peak_memory_bytes"],
          .blocks = totals["block_seconds"].get<std::vector<double>>()};
}

// The peer gets the windows that ours takes from the calibration text.
Json run_peer(const BenchQuantizeArguments& options) {
  const TemporaryFolder folder;
  const ModelConfig config = load_model_config(options.model).model;
  const Calibration calibration = read_calibration(
      options.calibration, find_model_dir(options.model), config.context, config.vocabulary,
      {.windows = options.samples, .length = options.length, .reference_starts = true});
  Json windows = Json::array();
  for (int64_t i = 0; i < calibration.windows_NT.size(0); ++i) {
    const at::Tensor window = calibration.windows_NT.select(0, i).contiguous();
    const int64_t* const ids = window.const_data_ptr<int64_t>();
    windows.push_back(std::vector<int64_t>(ids, ids + window.numel()));
  }
  write_file_atomic(folder / "windows.json", Json{{"windows", windows}}.dump());
  return run_child({options.python, options.peer, "quantize", find_model_dir(options.model),
                    folder / "windows.json"});
}

Json run_json(const Run& run) {
  return {{"samples", run.samples},
          {"seconds", run.seconds},
          {"peak_memory_bytes", run.peak_memory_bytes},
          {"block_seconds", run.blocks}};
}

void print_runs(const std::vector<Run>& runs, const Json& peer) {
  fmt::print("{:>8} {:>10} {:>14} {:>26} {:>10}\n", "windows", "seconds", "s per window",
             "block: least, median, most", "peak");
  for (const Run& run : runs) {
    const auto [least, most] = std::minmax_element(run.blocks.begin(), run.blocks.end());
    fmt::print("{:>8} {:>10.1f} {:>14.2f} {:>10.2f} {:>7.2f} {:>7.2f} {:>10}\n", run.samples,
               run.seconds, run.seconds / static_cast<double>(run.samples), *least,
               median(run.blocks), *most, format_bytes(run.peak_memory_bytes));
  }
  if (peer.is_null()) return;
  fmt::print(
      "GPTQModel {}: {:.1f} s, peak {}; osp is {:.2f} times as fast at {:.2f} of its memory\n",
      peer["versions"]["gptqmodel"].get<std::string>(), peer["seconds"].get<double>(),
      format_bytes(peer["peak_memory_bytes"].get<double>()),
      peer["seconds"].get<double>() / runs.back().seconds,
      runs.back().peak_memory_bytes / peer["peak_memory_bytes"].get<double>());
}

int run(const BenchQuantizeArguments& options) {
  if (!options.alone) check_peer(options.python, options.peer);
  Console console(options.common.quiet);
  std::vector<Run> runs;
  for (const int64_t part : {4, 2, 1}) {
    runs.push_back(run_ours(options, std::max<int64_t>(1, options.samples / part)));
    console.line("osp, {} windows: {:.1f} s", runs.back().samples, runs.back().seconds);
  }
  Json peer;
  if (!options.alone) peer = run_peer(options);
  if (!options.common.json) {
    print_runs(runs, peer);
    return 0;
  }
  Json result = {{"model", options.model}, {"runs", Json::array()}, {"peer", peer}};
  for (const Run& one : runs) result["runs"].push_back(run_json(one));
  if (!options.alone) {
    result["ratio"] = peer["seconds"].get<double>() / runs.back().seconds;
    result["peak_memory_ratio"] =
        runs.back().peak_memory_bytes / peer["peak_memory_bytes"].get<double>();
  }
  print_json(result);
  return 0;
}

}  // namespace

void add_bench_quantize(Command& bench) {
  auto options = std::make_shared<BenchQuantizeArguments>();
  Command command = bench.part("quantize", "GPTQ of a model folder beside GPTQModel");
  add_common_options(command, options->common);
  add_model_option(command, options->model);
  command.add("--calibration", options->calibration, "token shards, or a text or JSON lines file")
      .required();
  command
      .add("--samples", options->samples, "calibration windows; osp also runs on ½ and ¼ of them")
      .between(int64_t{1}, int64_t{1} << 20);
  command.add("--length", options->length, "tokens of a window")
      .between(int64_t{2}, int64_t{1} << 20);
  command.add("--calibration-type", options->calibration_type, "as in osp quantize")
      .one_of({"auto", "bf16", "fp32"});
  command.add("--python", options->python, "interpreter with the peer's packages");
  command.add("--peer", options->peer, "script of the peer");
  command.add("--alone", options->alone, "without the peer");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
