// `osp bench quantize`: GPTQ of a model folder beside GPTQModel on the same calibration windows, and
// how the time grows with the windows and is spread over the blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

struct QuantizeBench {
  std::string model;
  std::string calibration;
  int64_t samples = 128;
  int64_t length = 2048;
  std::string calibration_type = "auto";
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/gptqmodel_peer.py";
};

// Numbers of one run of ours.
struct QuantizeRun {
  int64_t samples = 0;
  double seconds = 0.0;  // all blocks, without reading the calibration text
  double peak_memory_bytes = 0.0;
  std::vector<double> blocks = {};  // seconds of each
};

// Quantizes with so many windows in a process of its own.
QuantizeRun run_our_quantize(const QuantizeBench& bench, int64_t samples);

// Runs the peer on the windows that ours takes from the calibration text.
Json run_peer_quantize(const QuantizeBench& bench);

// {"model", "runs", "peer"} and, unless the peer is null, its ratios to the last run.
Json quantize_bench_json(const std::string& model, const std::vector<QuantizeRun>& runs,
                         const Json& peer);

// One line per run and, unless the peer is null, one that compares it with the last.
std::string quantize_bench_table(const std::vector<QuantizeRun>& runs, const Json& peer);

}  // namespace osp
