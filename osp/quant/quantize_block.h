// One block's linear layers, quantized in the order of the forward pass: k, v, q → o → up, gate →
// down. Each group is calibrated on inputs that come out of the groups before it, already
// quantized.
//
// If the activations of all calibration windows fit the memory limit, the block runs once, in
// stages: when the pass reaches the input of a group, its statistics are taken, the group is
// quantized there and then, and the pass goes on with the new weights. Otherwise the block runs
// once per group over batches of windows and stops at the group's input.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/model/transformer.h"
#include "osp/quant/activation_scales.h"
#include "osp/quant/bits.h"
#include "osp/quant/calibration_store.h"
#include "osp/quant/gptq.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/quantized_linear.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

enum class WeightMethod { rtn, gptq };

// How weights become integers, and what the forward pass looks like meanwhile.
struct WeightSettings {
  WeightMethod method = WeightMethod::rtn;
  WeightGrid grid = {};
  GptqOptions gptq = {};
  OnlineTransforms online = {};  // that the store's weights were rotated for
  // Activation and cache quantizers that are on during calibration; 16-16-16: off, as in the
  // reference.
  BitWidths calibration_bits = {};
  int64_t batch_tokens = 8192;                    // of one pass over some of the windows
  int64_t memory_limit_bytes = int64_t{4} << 30;  // of calibration activations
};

// What quantizing one linear layer gave.
struct LinearReport {
  std::string name;
  double sqnr_db = 0.0;
  double output_error = -1.0;  // relative, on calibration inputs; −1 without calibration
  double kurtosis_before = 0.0, kurtosis_after = 0.0;  // excess, of its input; NaN: not measured
  double seconds = 0.0;
  double damping = 0.0;  // GPTQ's, as used
  int64_t num_attempts = 0;
  int64_t num_dead = 0;
};

// Forward options with a tap and nothing else.
ForwardOptions watched_by(Tap& tap);

// The linear layers of a block by the tap point of their input, in the order in which they are
// quantized.
struct LinearGroup {
  TapPoint input;
  std::vector<int64_t> parameters;
};
std::vector<LinearGroup> linear_groups(const ParameterStore& store, int64_t layer);

// The residual stream of the calibration windows in front of the block; each call moves it behind.
struct CalibrationStreams {
  CalibrationStore* quantized = nullptr;  // null: no calibration
  CalibrationStore* original = nullptr;   // only for corrections
};

// Quantizes block `layer` of the store (whose own weights stay as they are) and adds its layers to
// `weights` and `reports`. Warnings (damping that had to grow, dead channels) go to `warn`.
void quantize_block(const ParameterStore& store, int64_t layer, const WeightSettings& settings,
                    const CalibrationStreams& streams, QuantizedWeights& weights,
                    std::vector<LinearReport>& reports,
                    const std::function<void(const std::string&)>& warn);

// Moves the streams behind a block that is already quantized.
void pass_block(const ParameterStore& store, int64_t layer, const WeightSettings& settings,
                const CalibrationStreams& streams, const QuantizedWeights& weights);

}  // namespace osp
