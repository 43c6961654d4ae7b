// From a loaded model to integers: transforms, calibration, quantization and report, for one method
// and one seed. `osp quantize` and the tests are its callers.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "osp/model/parameters.h"
#include "osp/quant/calibration.h"
#include "osp/quant/pipeline.h"
#include "osp/quant/quantize_method.h"
#include "osp/quant/quantized_model_dir.h"

namespace osp {

// How scales of activations are found.
enum class ActivationMode {
  per_token,   // when the model runs
  after_norm,  // one constant after every norm, per token elsewhere
  per_tensor,  // one constant per input of linear layers, from calibration
};
ActivationMode parse_activation_mode(const std::string& text);

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
  int64_t memory_limit_bytes = int64_t{4} << 30;
  std::string work_dir;  // see PipelineOptions
  bool resume = false;
  std::function<void(const std::string& stage)> stage;  // what is being done
  // `unit` is "blocks" or, while rotations are learned, "steps".
  std::function<void(const char* unit, int64_t done, int64_t total, double seconds_left)> progress;
  std::function<void(const std::string&)> warn;
};

struct QuantizeOutcome {
  ParameterStore store;  // after the transforms; quantized layers hold the dequantized weights
  QuantizedWeights weights;
  QuantizedModelInfo info;
  Json report;  // quantize.json
  int64_t num_resumed = 0;

  std::unique_ptr<FakeQuantTap> make_tap() const;
};

// `model` is fused already (osp/model/fuse.h) and is not changed; `model_dir` is where its
// tokenizer lies. Errors: usage if 16-bit weights are asked for or calibration is missing; those of
// the transforms, of read_calibration and of quantize_weights.
QuantizeOutcome quantize_model(const ParameterStore& model, const std::string& model_dir,
                               const QuantizeRequest& request);

}  // namespace osp
