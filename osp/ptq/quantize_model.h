// From a loaded model to integers: transforms, calibration, quantization and report, for one method
// and one seed, written as a model dir. `osp quantize` and the tests are its callers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "osp/model/model_source.h"
#include "osp/ptq/block_by_block.h"
#include "osp/ptq/calibration.h"
#include "osp/ptq/quantize_method.h"
#include "osp/quant/fake_quant.h"

namespace osp {

ActivationMode parse_activation_mode(const std::string& text);

// How rotations are learned end to end; the defaults are the paper's.
struct SpinQuantSchedule {
  int64_t steps = 100;
  int64_t batch = 8;   // calibration windows of a step
  int64_t length = 0;  // tokens of a window that are used; 0: all
};

struct QuantizeRequest {
  QuantizeMethod method;
  Profile profile = Profile::osp_paper;
  BitWidths bits = {4, 4, 4};
  int64_t group = 0;
  bool symmetric = true;
  ActivationMode activations = ActivationMode::per_token;
  std::string calibration;  // shards or a file; "": none, where the method needs none
  int64_t samples = 128;
  int64_t length = 2048;
  uint64_t seed = 0;  // of calibration windows and random rotations
  bool bf16 = false;  // type of the forward pass over calibration windows; else fp32
  SpinQuantSchedule spin = {};
  int64_t down_block = 0;  // of the Hadamard before the down projection; 0: one for all of it
  ClipRatios clips = {};   // of dynamic activation and cache grids
  int64_t memory_limit_bytes = int64_t{4} << 30;  // of calibration activations
  std::string out;  // the quantized model dir; `out`.work while it is made
  bool resume = false;
  std::function<void(const std::string& stage)> stage;  // what is being done
  // `unit` is "layers" (linear ones) or, while rotations are learned, "steps".
  std::function<void(const char* unit, int64_t done, int64_t total, double seconds_left)> progress;
  std::function<void(const std::string&)> warn;
  std::function<bool()> stop;  // see BlockByBlockOptions
};

struct QuantizeOutcome {
  Json report;              // quantize.json
  int64_t num_resumed = 0;  // blocks
};

// Refuses requests that no model can serve. Error(usage): 16-bit weights, or no calibration text
// where the method or the activation scales need it.
void check_request(const QuantizeRequest& request);

// Refuses models that the request's method cannot serve, by the configuration of the fused model
// alone: no tensor and no calibration text is read. Errors: unsupported with the reason of the
// transform (TransformRow::check_serves), for sizes without a Hadamard matrix that rotations or a
// quantized key cache need, and for static scales after norms where no norm precedes the blocks;
// usage if groups or Hadamard blocks do not divide.
void check_method_serves(const QuantizeRequest& request, const ModelConfig& config);

// Reads `source` (fused already, osp/model/model_source.h) part by part and writes request.out;
// `model_dir` has its tokenizer. Only SpinQuant holds the whole model in memory. Errors: those of
// check_request and check_method_serves, of read_calibration, of the transforms, of
// quantize_block_by_block and of save_quantized_model_dir.
QuantizeOutcome quantize_model(const ModelSource& source, const std::string& model_dir,
                               const QuantizeRequest& request);

}  // namespace osp
