// The table of transforms: what `osp quantize --method TRANSFORM+ROUNDING` does to a model's
// weights before they are rounded. A method is one row, defined in its own file (quarot.h,
// awq.h, …) and listed in transform.cpp; parsing, help, `--method all`, the checks before any work
// and the run itself ask the row.
//
// Tested by quantize_method_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "osp/base/json.h"
#include "osp/model/model_source.h"
#include "osp/model/parameters.h"
#include "osp/ptq/smooth_scale.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

struct QuantizeRequest;  // osp/ptq/quantize_request.h
class PartFolder;        // osp/ptq/part_folder.h

// A transform that is ready to be applied, one part of the model at a time.
struct PartTransform {
  OnlineTransforms online = {};  // what the forward pass must do afterwards
  // Rows of each linear input that apply() wants to see; 0: it looks at no activations.
  int64_t kept_rows = 0;
  // Changes the parameters of a part. `statistics` are those of a block's inputs where kept_rows
  // asks for them, and null otherwise and outside the blocks. Empty: nothing is changed.
  std::function<void(ParameterStore& part, const ChannelStatisticsTap* statistics)> apply = {};
  Json learning = {};  // what was learned, for quantize.json; null: nothing
};

// Everything that a transform may look at while it is made.
struct TransformInputs {
  const ModelSource& source;         // fused
  const QuantizeRequest& request;    // its options, seed and bits
  const WeightGrid& grid;            // that the weights will be rounded to
  const at::Tensor& windows_NT;      // calibration windows, undefined for none
  const PartFolder* kept = nullptr;  // where what is learned is kept for a resume; null: nowhere
};

struct TransformRow {
  std::string_view name;              // in --method and in the reports
  std::string_view sentence;          // for help
  std::string_view default_rounding;  // of --method NAME alone
  // Roundings that follow it in the table of `--method all`; "": no more.
  std::array<std::string_view, 2> table_roundings = {};
  bool needs_calibration = false;
  // Options of `osp quantize` that mean something to this transform alone ("": no more), and what
  // they are for, as the end of "is for …".
  std::array<std::string_view, 3> own_options = {};
  std::string_view own_options_are_for = "";
  // The model needs an online Hadamard before its down projections afterwards, which other
  // programs do not compute.
  bool leaves_down_hadamard = false;
  // It clips the weights itself, so the grid is found without a clipping search.
  bool clips_weights = false;
  // Throws the Error that says why models of this (fused) configuration cannot be transformed;
  // reads no tensor. Null: every model can.
  void (*check_serves)(const ModelConfig& config, const QuantizeRequest& request) = nullptr;
  // Prepares the transform of a model that passed check_serves.
  PartTransform (*make)(const TransformInputs& inputs) = nullptr;
};

// All rows, in the order of help and of the table.
std::span<const TransformRow* const> transforms();

// The row of that name, null if there is none.
const TransformRow* find_transform(std::string_view name);

}  // namespace osp
