// SmoothQuant: outliers of activations are moved into the weights, half of the way.
//
//   s_j = max|x_j|^α / max|W_:j|^(1 − α),   x_j → x_j / s_j,  W_:j → W_:j · s_j
//
// at the inputs of q, k, v and of gate and up, where the norm's weights take 1 / s (see
// osp/quant/smooth_scale.h for models whose norm has no weight per channel). The maximum over W is
// that of all layers which read the input. Source: Xiao et al., "SmoothQuant", 2023.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/model/parameters.h"

namespace osp {

struct SmoothQuantOptions {
  double alpha = 0.5;
};

// Changes the weights of a fused store; windows_NT are calibration tokens, int64. The logits stay.
// Error(unsupported) naming the family's trait if no norm precedes the blocks.
void smooth_quant(ParameterStore& store, const at::Tensor& windows_NT,
                  const SmoothQuantOptions& options = {});

}  // namespace osp
