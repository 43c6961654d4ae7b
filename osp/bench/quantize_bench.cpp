#include "osp/bench/quantize_bench.h"

#include <fmt/format.h>

#include <algorithm>

#include "osp/base/console.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/bench/child.h"
#include "osp/model/model_dir.h"
#include "osp/ops/result_origin.h"
#include "osp/ptq/calibration.h"

namespace osp {
namespace {

// By how much osp is faster than the peer, and the shares of its memory and CPU time that it takes.
struct PeerRatios {
  std::vector<double> speed = {}, memory = {}, cpu = {};
};

PeerRatios ratios_to_peer(const QuantizeComparison& compared) {
  PeerRatios ratios;
  const size_t first = compared.runs.size() - compared.peers.size();
  for (size_t i = 0; i < compared.peers.size(); ++i) {
    const QuantizeRun& ours = compared.runs[first + i];
    const Json& peer = compared.peers[i];
    ratios.speed.push_back(peer["seconds"].get<double>() / ours.seconds);
    ratios.memory.push_back(ours.peak_memory_bytes / peer["peak_memory_bytes"].get<double>());
    ratios.cpu.push_back(ours.cpu_seconds / peer[kProcess]["cpu_seconds"].get<double>());
  }
  return ratios;
}

}  // namespace

std::vector<std::string> compared_precisions(const QuantizeBench& bench) {
  if (bench.calibration_type == "both") return {"fp32", "bf16"};
  return {bench.calibration_type};
}

QuantizeRun run_our_quantize(const QuantizeBench& bench, const std::string& precision,
                             int64_t windows) {
  const TemporaryFolder folder;
  const Json json =
      run_child({own_program(), "quantize", bench.model, "--method", "gptq", "--bits", "4-16-16",
                 "--calibration", bench.calibration, "--windows", std::to_string(windows),
                 "--length", std::to_string(bench.length), "--calibration-type", precision, "--out",
                 folder / "out", "--json", "--quiet"});
  const Json& totals = json["runs"][0]["report"]["totals"];
  return {.windows = windows,
          .seconds = totals["wall_seconds"],
          .peak_memory_bytes = totals["peak_memory_bytes"],
          .blocks = totals["block_seconds"].get<std::vector<double>>(),
          .cpu_seconds = json[kProcess]["cpu_seconds"]};
}

Json calibration_windows(const QuantizeBench& bench) {
  const ModelConfig config = load_model_config(bench.model).model;
  const Calibration calibration = read_calibration(
      bench.calibration, find_model_dir(bench.model), config.context, config.vocabulary,
      {.windows = bench.windows, .length = bench.length, .reference_starts = true});
  Json windows = Json::array();
  for (int64_t i = 0; i < calibration.windows_NT.size(0); ++i) {
    const at::Tensor window = calibration.windows_NT.select(0, i).contiguous();
    const int64_t* const ids = window.const_data_ptr<int64_t>();
    windows.push_back(std::vector<int64_t>(ids, ids + window.numel()));
  }
  return windows;
}

Json run_peer_quantize(const QuantizeBench& bench, const std::string& precision,
                       const PeerSettings& settings, const Json& windows) {
  const TemporaryFolder folder;
  write_file_atomic(folder / "windows.json", json_text(Json{{"windows", windows}}));
  return run_child(
      {bench.python, bench.peer, "quantize", find_model_dir(bench.model), folder / "windows.json",
       "--dtype", precision == "fp32" ? "float32" : "bfloat16"},
      settings.environment);
}

PeerSettings tune_quantize_peer(const QuantizeBench& bench, const std::string& precision,
                                const Json& windows, Json& trials) {
  const size_t count = std::max<size_t>(1, windows.size() / 16);
  const Json few(Json::array_t(windows.begin(), windows.begin() + static_cast<int64_t>(count)));
  const auto windows_per_s = [&](const PeerSettings& settings) {
    const Json run = run_peer_quantize(bench, precision, settings, few);
    return static_cast<double>(count) / run["seconds"].get<double>();
  };
  return fastest_settings(windows_per_s, "windows_per_s", trials);
}

Json quantize_bench_json(const std::string& model,
                         const std::vector<QuantizeComparison>& comparisons) {
  Json result = {{"model", model}, {"comparisons", Json::array()}};
  record_timed_origin(result);
  for (const QuantizeComparison& compared : comparisons) {
    Json entry = {
        {"precision", compared.precision}, {"runs", Json::array()}, {"peers", compared.peers}};
    for (const QuantizeRun& run : compared.runs) {
      entry["runs"].push_back({{"windows", run.windows},
                               {"seconds", run.seconds},
                               {"process_cpu_seconds", run.cpu_seconds},
                               {"peak_memory_bytes", run.peak_memory_bytes},
                               {"block_seconds", run.blocks}});
    }
    if (!compared.peers.empty()) {
      const PeerRatios ratios = ratios_to_peer(compared);
      entry["peer_settings"] = compared.settings;
      entry["peer_trials"] = compared.trials;
      entry["ratios"] = ratios.speed;
      entry["ratio"] = median(ratios.speed);
      entry["peak_memory_ratio"] = median(ratios.memory);
      entry["cpu_ratio"] = median(ratios.cpu);
    }
    result["comparisons"].push_back(entry);
  }
  return result;
}

std::string quantize_bench_table(const std::vector<QuantizeComparison>& comparisons) {
  std::string table =
      fmt::format("{:>9} {:>8} {:>10} {:>14} {:>26} {:>10}\n", "precision", "windows", "seconds",
                  "s per window", "block: least, median, most", "peak");
  for (const QuantizeComparison& compared : comparisons) {
    for (const QuantizeRun& run : compared.runs) {
      const auto [least, most] = std::minmax_element(run.blocks.begin(), run.blocks.end());
      table += fmt::format("{:>9} {:>8} {:>10.1f} {:>14.2f} {:>10.2f} {:>7.2f} {:>7.2f} {:>10}\n",
                           compared.precision, run.windows, run.seconds,
                           run.seconds / static_cast<double>(run.windows), *least,
                           median(run.blocks), *most, format_bytes(run.peak_memory_bytes));
    }
    if (compared.peers.empty()) continue;
    const Json& peer = compared.peers.back();
    const PeerRatios ratios = ratios_to_peer(compared);
    table += fmt::format(
        "GPTQModel {} in {}: {:.1f} s, peak {}; osp is {:.2f} times as fast (median of {} pairs) "
        "at {:.2f} of its memory and {:.2f} of its CPU time\n",
        peer["versions"]["gptqmodel"].get<std::string>(), compared.precision,
        peer["seconds"].get<double>(), format_bytes(peer["peak_memory_bytes"].get<double>()),
        median(ratios.speed), ratios.speed.size(), median(ratios.memory), median(ratios.cpu));
  }
  return table;
}

}  // namespace osp
