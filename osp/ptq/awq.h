// AWQ: weights of channels with large activations are scaled up before they are rounded.
//
//   s = m^r / sqrt(max m^r · min m^r),  m_j = mean|x_j|,  r in 0, 1/20, …, 19/20
//
// for the inputs of q k v, o, gate and up, and down, each r tried on the layers that read the
// input: the one with the least Σ ‖Q(W diag(s)) (x / s) − W x‖² over at most 512 tokens is folded
// (osp/ptq/smooth_scale.h). Then each group's largest weight may be clipped: of the ten limits
// p · max|w|, p = 1 − i/20, the one with the least squared error of the output; not for q and k.
// Source: Lin et al., "AWQ", 2024.
//
// Tested by smooth_test.cpp and tests/python/test_quantize_oracle.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/ptq/smooth_scale.h"
#include "osp/ptq/transform.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

inline constexpr int64_t kAwqTokens = 512;

struct AwqOptions {
  WeightGrid grid = {.clipping_search = false};  // that the weights will be rounded to
  bool clip = true;
};

// The result of the search for one input.
struct AwqChoice {
  std::string input;          // e.g. "input of model.layers.3.mlp.down_proj.weight"
  double ratio = 0.0;         // r
  double error_before = 0.0;  // squared, r = 0
  double error_after = 0.0;   // at the chosen r
};

// Changes the weights of one block of a fused store. `statistics` are those of its inputs, with up
// to kAwqTokens rows of each. The logits stay, but for clipping.
std::vector<AwqChoice> awq_block(ParameterStore& store, int64_t layer,
                                 const ChannelStatisticsTap& statistics,
                                 const AwqOptions& options = {});

// W [out, in] clipped as above for inputs x [n, in].
at::Tensor awq_clipped(const at::Tensor& weight, const at::Tensor& x, const WeightGrid& grid);

extern const TransformRow kAwq;

}  // namespace osp
