// Quantizes a model block by block: each block is read, transformed, quantized and stored as a part
// (part_folder.h) before the next one is read. The calibration windows pass the blocks alongside:
//
//   1. embeddings  the tables are read; the stream of the untransformed model starts; the tables
//                  are transformed and rounded; the streams of the transformed, the quantized and,
//                  for GPTAQ and Qronos, the unquantized model start; the part is stored
//   for each block:
//   2. read        the block as it is
//   3. before      the untransformed stream passes it: statistics for the transform
//   4. transform   the block's weights change
//   5. after       the transformed stream passes it: kurtosis, static scales and offsets
//   6. quantize    the quantized and the unquantized stream pass it, layer group by layer group
//                  (quantize_block.h), and the part is stored
//
// Memory: one block (at first the tables), and the activations of the streams, up to a limit above
// which they are in files. A resumed run takes the streams through the stored blocks again and
// quantizes only those that are missing.
//
// Tested by quantize_block_test.cpp and mean_offset_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/model/model_source.h"
#include "osp/ptq/part_folder.h"
#include "osp/ptq/quantize_block.h"
#include "osp/ptq/transform.h"
#include "osp/quant/activation_grids.h"

namespace osp {

// How the scales of activations are found.
enum class ActivationMode {
  per_token,   // dynamically, when the model runs
  after_norm,  // one constant after every norm, per token elsewhere
  per_tensor,  // one constant per input of linear layers, from calibration
};

struct BlockByBlockOptions {
  WeightSettings weights;  // of the grids: clips and groups; the others are found block by block
  PartTransform transform = {};
  ActivationMode activations = ActivationMode::per_token;
  NumberFormat activation_bits = 16;  // of static scales
  MeanOffset mean_offset = MeanOffset::none;
  TableType tables = TableType::bf16;
  bool bf16 = false;            // type of the forward pass over calibration windows; else fp32
  int64_t batch_tokens = 8192;  // at most, that pass a block together
  ActivationSpace space = {};
  std::function<void(int64_t done, int64_t total, double seconds_left)> progress;  // linear layers
  std::function<void(const std::string&)> warn = [](const std::string&) {};
  std::function<bool()> stop;  // asked after every linear layer; true: Error(interrupted)
};

struct BlockByBlockResult {
  ModelConfig config;                 // of the transformed model
  std::vector<LinearReport> reports;  // in the order of quantization
  ActivationScales scales;            // the offsets are in the parts
  int64_t num_resumed = 0;            // blocks that were stored already
  double seconds = 0.0;
  std::vector<double> block_seconds;  // of the blocks that were not resumed
};

// Stores every part in `parts`. `source` is fused (see fused_source()). windows_NT:
// calibration windows (int64), undefined for none, which only roundings without a Hessian and
// transforms that look at no activations allow. Errors: usage if a group does not divide; damaged
// for NaN weights and damaged parts; io for the disk; those of the transform.
BlockByBlockResult quantize_block_by_block(const ModelSource& source, const at::Tensor& windows_NT,
                                           const BlockByBlockOptions& options,
                                           const PartFolder& parts);

}  // namespace osp
