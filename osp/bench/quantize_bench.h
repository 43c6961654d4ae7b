// `osp bench quantize`: GPTQ of a model folder beside GPTQModel on the same calibration windows and
// at the same precision, and how the time grows with the windows and is spread over the blocks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/fields.h"
#include "osp/base/json.h"
#include "osp/bench/peer_settings.h"
#include "osp/ptq/calibration.h"

namespace osp {

struct QuantizeBench {
  std::string model;
  std::string calibration;
  int64_t windows = CalibrationOptions().windows;
  int64_t length = CalibrationOptions().length;
  std::string calibration_type = "both";
  std::string python = ".venv/bin/python";
  std::string peer = "bench/peers/gptqmodel_peer.py";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("model", self.model, "model dir, training checkpoint or finished run folder",
          {.positional = true, .required = true});
    visit.group("Calibration");
    visit("calibration", self.calibration,
          "calibration text: token shards, or a file of text, JSON lines or Parquet",
          {.value = "PATH", .required = true});
    visit("windows", self.windows, Range{1, 1 << 20},
          "number of calibration windows; osp also runs with a half and a quarter of them",
          {.formerly = "samples"});
    visit("length", self.length, Range{2, 1 << 20},
          "length of a calibration window, at most the trained context", {.unit = "tokens"});
    visit(
        "calibration_type", self.calibration_type, Choices{{"both", "bf16", "fp32"}},
        "precision of the calibration forward pass, on both sides; both = one comparison in each");
    visit.group("Peer");
    visit("python", self.python, "Python interpreter that runs the peer", {.value = "FILE"});
    visit("peer", self.peer, "script of the peer that osp is compared with", {.value = "FILE"});
  }
};

// Numbers of one run of ours.
struct QuantizeRun {
  int64_t windows = 0;
  double seconds = 0.0;  // all blocks, without reading the calibration text
  double peak_memory_bytes = 0.0;
  std::vector<double> blocks = {};  // seconds of each
  double cpu_seconds = 0.0;         // of the whole process
};

// Runs of both sides at one precision of the forward pass.
struct QuantizeComparison {
  std::string precision;          // "fp32" or "bf16"
  std::vector<QuantizeRun> runs;  // ours, the last ones on all windows
  std::vector<Json> peers = {};   // the peer's on all windows, each behind one of these; or none
  std::string settings = {};      // the peer's
  Json trials = Json::array();    // of the peer's settings
};

// The precisions that `calibration_type` names.
std::vector<std::string> compared_precisions(const QuantizeBench& bench);

// Quantizes with so many windows in a process of its own.
QuantizeRun run_our_quantize(const QuantizeBench& bench, const std::string& precision,
                             int64_t windows);

// The windows that ours takes from the calibration text, [[id, …], …].
Json calibration_windows(const QuantizeBench& bench);

// Runs the peer on these windows.
Json run_peer_quantize(const QuantizeBench& bench, const std::string& precision,
                       const PeerSettings& settings, const Json& windows);

// The fastest settings of the peer, on a sixteenth of the windows; `trials` as in
// fastest_settings().
PeerSettings tune_quantize_peer(const QuantizeBench& bench, const std::string& precision,
                                const Json& windows, Json& trials);

// {"model", "comparisons": [{"precision", "runs", "peers"} and, unless there is no peer, medians of
// its ratios to the run in front of each]}.
Json quantize_bench_json(const std::string& model,
                         const std::vector<QuantizeComparison>& comparisons);

// One line per run and, unless there is no peer, one that compares it with ours.
std::string quantize_bench_table(const std::vector<QuantizeComparison>& comparisons);

}  // namespace osp
