// Static scales of activations: grids that are fixed before the model runs, in place of a range
// that is looked up for every token.
//
//   code = clamp(round(x / scale) + zero, 0, 2^b − 1),   x ≈ scale · (code − zero)
//
// After a norm whose channel weights are folded into the next layer, every row has mean square 1
// (or the square of a scalar gain), so one constant serves all rows: the step of the uniform
// quantizer of a Gaussian. Elsewhere a scale per tensor comes from calibration.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <utility>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/quant/bits.h"

namespace osp {

struct StaticScale {
  double scale = 1.0;  // of NVFP4 the constant above the scales of its blocks
  double zero = 0.0;   // a whole number
  bool operator==(const StaticScale&) const = default;
};

// Static scales by (tap point, layer); a point that is not in the map is quantized per token.
using ActivationScales = std::map<std::pair<TapPoint, int64_t>, StaticScale>;

// The step s with the least mean squared error of s · clamp(round(x / s), −2^(b−1), 2^(b−1) − 1)
// for x from a standard normal law (0.335 at 4 bits), by golden section over a sum in fp64.
double gaussian_step(int64_t bits);

// Error(unsupported) if norm_scales serves no model of this configuration: no norm precedes the
// attention and the feed-forward network.
void check_norm_scales(const ModelConfig& config);

// That step times the norm's gain for the inputs of q, k, v and of gate and up of one block.
// Error(unsupported) as check_norm_scales, and naming the norm if its channel weights differ: fold
// them first.
ActivationScales norm_scales(const ParameterStore& store, int64_t layer, int64_t bits);

// Of integers the scale with the least squared error among 80 clipped ranges [p · low, p · high] of
// the numbers of x, zero included. Of FP8 and NVFP4 what the largest magnitude of x gives
// (osp/quant/float_grid.h), without a zero.
StaticScale calibrated_scale(const at::Tensor& x, const NumberFormat& format);

// Quantized and back, in x's shape and type.
at::Tensor fake_quantize_static(const at::Tensor& x, int64_t bits, const StaticScale& scale);

}  // namespace osp
