// One block's linear layers, quantized in the order of the forward pass: k, v, q → o → up, gate →
// down, those of all experts side by side. Each group is calibrated on inputs that come out of the
// groups before it, already quantized: all windows are taken to the input of a group, its
// statistics are added up, its layers are quantized, and the windows continue with the new weights.
// The statistics of an expert are those of its own tokens; all experts of a block have theirs at
// the same time, about as much memory as the block itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/ptq/calibration_stream.h"
#include "osp/ptq/gptq.h"
#include "osp/ptq/rtn.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/quantized_linear.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

// How weights become integers, and what the forward pass looks like meanwhile.
struct WeightSettings {
  const RoundingRow* rounding = &kRtn;
  WeightGrid grid = {};
  GptqOptions gptq = {};         // the rounding sets its correction
  OnlineTransforms online = {};  // that the weights were rotated for
  // Activation and cache quantizers during calibration; 16-16-16: off, as in the reference. Their
  // grids are those that the quantized model will run with.
  BitWidths calibration_bits = {};
  ActivationGrids grids = {};

  bool wants_unquantized() const {
    return rounding->hessian == HessianKind::quantized_and_difference;
  }
};

// The result of quantizing one linear layer.
struct LinearReport {
  std::string name;
  double sqnr_db = 0.0;
  double output_error = -1.0;  // relative, on calibration inputs; −1 without calibration
  double kurtosis_before = 0.0, kurtosis_after = 0.0;  // excess, of its input; NaN: not measured
  double seconds = 0.0;
  double damping = 0.0;  // GPTQ's, as used
  int64_t num_attempts = 0;
  int64_t num_dead = 0;
  int64_t expert_tokens = -1;  // calibration tokens that reached the layer's expert; −1: none
  bool rounded_to_nearest = false;  // because those were too few for the method's rounding
};

// The fewest calibration tokens with which an expert's layer of `columns` inputs is rounded by its
// Hessian; with fewer, most directions of its inputs were never seen, and it is rounded to nearest.
int64_t fewest_expert_tokens(int64_t columns);

// One sentence that counts the layers of experts that were rounded to nearest for this reason, and
// says what to do; "" if there are none.
std::string too_few_tokens_warning(const std::vector<LinearReport>& reports);

// Default forward options with this tap.
ForwardOptions watched_by(Tap& tap);

// The linear layers of a block by the tap point of their input, in the order in which they
// are quantized.
struct LinearGroup {
  TapPoint input;
  std::vector<int64_t> parameters;
};
std::vector<LinearGroup> linear_groups(const ParameterStore& store, int64_t layer);

// Calibration windows in front of the block; both streams are taken behind it.
struct CalibrationStreams {
  CalibrationStream* quantized = nullptr;    // null: no calibration
  CalibrationStream* unquantized = nullptr;  // null: WeightSettings::wants_unquantized is false
};

// Called with messages for the user, and after every linear layer.
struct BlockWatcher {
  std::function<void(const std::string&)> warn = [](const std::string&) {};
  std::function<void()> layer_done = [] {};
};

// Quantizes the layers of `block` (a part or a whole store; its weights are not changed) and adds
// them and their reports. Errors are those of the rounding.
void quantize_block(const ParameterStore& block, int64_t layer, const WeightSettings& settings,
                    const CalibrationStreams& streams, QuantizedWeights& weights,
                    std::vector<LinearReport>& reports, const BlockWatcher& watcher = {});

// Takes the streams through a block whose layers are in `weights` already.
void pass_block(const ParameterStore& block, int64_t layer, const WeightSettings& settings,
                const CalibrationStreams& streams, const QuantizedWeights& weights);

}  // namespace osp
