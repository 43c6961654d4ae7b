// All linear layers of a model, transformed and quantized block by block: what `osp quantize` does.
//
// A block is read, transformed, quantized and stored as a part (part_folder.h) before the next one
// is read. Memory: one block (and, at the beginning and the end, the tables), and the activations
// of the calibration windows, up to a limit, above which they are in files. A run that was
// interrupted goes on behind the last stored part; the calibration windows are taken through the
// blocks that are done again.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/model/model_source.h"
#include "osp/ptq/part_folder.h"
#include "osp/ptq/part_transform.h"
#include "osp/ptq/quantize_block.h"
#include "osp/quant/activation_scales.h"

namespace osp {

// How scales of activations are found.
enum class ActivationMode {
  per_token,   // when the model runs
  after_norm,  // one constant after every norm, per token elsewhere
  per_tensor,  // one constant per input of linear layers, from calibration
};

struct PipelineOptions {
  WeightSettings weights;
  PartTransform transform = {};
  ActivationMode activations = ActivationMode::per_token;
  int64_t activation_bits = 16;  // of static scales
  bool bf16 = false;             // type of the forward pass over calibration windows; else fp32
  int64_t batch_tokens = 8192;   // of one pass over some of the windows
  ActivationSpace space = {};
  std::function<void(int64_t done, int64_t total, double seconds_left)> progress;  // linear layers
  std::function<void(const std::string&)> warn = [](const std::string&) {};
  std::function<bool()> stop;  // asked after every linear layer; true: Error(interrupted)
};

struct PipelineResult {
  ModelConfig config;                 // of the transformed model
  std::vector<LinearReport> reports;  // in the order of quantization
  ActivationScales scales;
  int64_t num_resumed = 0;  // blocks whose parts were there
  double seconds = 0.0;
  std::vector<double> block_seconds;  // of the blocks that were not resumed
};

// `source` needs no fusing (see fused_source()). windows_NT: calibration windows (int64),
// undefined for none, which only round-to-nearest without activation statistics allows. Parts go to
// `parts`. Errors: usage if a group does not divide; damaged for NaN weights and damaged parts; io
// for the disk; those of the transform.
PipelineResult quantize_parts(const ModelSource& source, const at::Tensor& windows_NT,
                              const PipelineOptions& options, const PartFolder& parts);

}  // namespace osp
