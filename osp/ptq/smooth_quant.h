// SmoothQuant: outliers of activations are moved into the weights, half of the way.
//
//   s_j = max|x_j|^α / max|W_:j|^(1 − α),   x_j → x_j / s_j,  W_:j → W_:j · s_j
//
// at the inputs of q, k, v and of gate and up, where the norm's weights take 1 / s (see
// osp/ptq/smooth_scale.h for models whose norm has no weight per channel). The maximum over W is
// that of all layers which read the input. Source: Xiao et al., "SmoothQuant", 2023.
//
// Tested by smooth_test.cpp.
#pragma once

#include <cstdint>

#include "osp/model/parameters.h"
#include "osp/ptq/smooth_scale.h"
#include "osp/ptq/transform.h"

namespace osp {

struct SmoothQuantOptions {
  double alpha = 0.5;
};

// Error(unsupported) naming the family's trait if no norm precedes the blocks.
void check_smooth_quant(const ModelConfig& config);

// Changes the weights of one block of a fused store that passed the check. `statistics` are those
// of its inputs. The logits stay.
void smooth_quant_block(ParameterStore& store, int64_t layer,
                        const ChannelStatisticsTap& statistics,
                        const SmoothQuantOptions& options = {});

extern const TransformRow kSmoothQuant;

}  // namespace osp
