// What a method does to weights before they are rounded, one part of the model at a time.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "osp/model/parameters.h"
#include "osp/ptq/rotation.h"
#include "osp/ptq/smooth_scale.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

struct PartTransform {
  OnlineTransforms online = {};  // what the forward pass must do afterwards
  // Rows of each linear input that apply() wants to see; 0: it looks at no activations.
  int64_t kept_rows = 0;
  // Changes the parameters of a part; `seen` has the statistics of a block's inputs where they are
  // wanted, and is null otherwise and outside the blocks. Empty: nothing is changed.
  std::function<void(ParameterStore& part, const ChannelStatisticsTap* seen)> apply = {};
};

// The plan's rotations (rotate() of osp/ptq/rotation.h).
PartTransform rotating(const RotationPlan& plan);

// SmoothQuant. Error(unsupported) as check_smooth_quant.
PartTransform smoothing(const ModelConfig& config);

// AWQ for weights that will be rounded to `grid`.
PartTransform scaling_by_awq(const WeightGrid& grid);

}  // namespace osp
