// All linear layers of a model, quantized block by block: what `osp quantize` does after the
// transforms.
//
// Memory: the model, the activations of one block (bounded, see quantize_block.h) and the residual
// stream of the calibration windows (bounded, then on disk). With a work folder every finished
// block is stored there, and a run that was interrupted goes on behind the last one: the
// calibration stream is recomputed through the blocks that are done.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/parameters.h"
#include "osp/quant/quantize_block.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

struct PipelineOptions {
  WeightSettings weights;
  std::string work_dir;  // parts of finished blocks; "": none are kept
  bool resume = false;   // take the parts that are there; otherwise they are removed
  // Everything that the integers depend on (model, transforms, calibration, settings); parts that
  // were made with another one are refused.
  Json fingerprint;
  std::string scratch_dir = "/tmp";  // of activations above the memory limit
  std::function<void(int64_t done, int64_t total, double seconds_left)> progress;  // blocks
  std::function<void(const std::string&)> warn;
};

struct PipelineResult {
  QuantizedWeights weights;
  std::vector<LinearReport> reports;  // in the order of quantization
  int64_t num_resumed = 0;            // blocks taken from the work folder
  double seconds = 0.0;
};

// windows_NT: calibration windows (int64), undefined for none, which only round-to-nearest allows.
// Errors: usage if parts of other settings are to be resumed or a group does not divide; damaged
// for NaN weights and damaged parts; io for the disk.
PipelineResult quantize_weights(const ParameterStore& store, const at::Tensor& windows_NT,
                                const PipelineOptions& options);

// Mean excess kurtosis per token of the input of every linear layer, by the name of its weight, on
// at most 8 of the windows; the forward pass has the online transforms but no quantizers.
std::map<std::string, double> input_kurtosis(const ParameterStore& store,
                                             const OnlineTransforms& online,
                                             const at::Tensor& windows_NT);

}  // namespace osp
