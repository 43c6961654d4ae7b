// Grids of activations and cache beside their bits: static scales, clips, groups and offsets. One
// struct for FakeQuantTap, for the emulation during calibration and for the reload of a quantized
// model, so that all three round alike.
//
//   x ≈ Q(x − m) + m      Q: the grid of a point; m: its offset, 0 where it has none
//
// With m the mean over tokens of a point, what is rounded is the part that varies from token to
// token. An engine computes W · Q(x − m) in integers and adds the constant W · m as a bias. Without
// rounding the offset changes nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>

#include "osp/base/fields.h"
#include "osp/model/config.h"
#include "osp/model/tap.h"
#include "osp/quant/activation_scales.h"
#include "osp/quant/bits.h"

namespace osp {

// Fraction of the value range that dynamic grids cover; QuaRot uses 0.9 and 0.95.
struct ClipRatios {
  double activations = 1.0;
  double cache = 1.0;
  bool operator==(const ClipRatios&) const = default;
};

// Neighbouring channels of the input of linear layers that share a dynamic scale; 0: all of a
// token, and a head at the input of the output projection.
struct ActivationGroups {
  int64_t inputs = 0;  // of all linear layers; at most a head at the output projection
  int64_t down = 0;    // of the down projection, in place of `inputs`

  bool any() const { return inputs > 0 || down > 0; }
  bool operator==(const ActivationGroups&) const = default;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("activation_group", self.inputs, Range{0, 65536},
          "channels of a linear layer's input that share one scale of a token; 0 = all, and a head "
          "at the output projection, where groups are never larger");
    visit("down_group", self.down, Range{0, 65536},
          "channels of the down projection's input that share one scale of a token; 0 = as "
          "--activation-group says");
  }
};

// Channels that share a scale at the input of the linear layers that read `point`.
int64_t activation_group(const ActivationGroups& groups, TapPoint point, const ModelConfig& config);

// What --profile best takes: groups of 32 at all inputs, or none where 32 does not divide a size.
ActivationGroups best_activation_groups(const ModelConfig& config);

// Error(usage) if a group does not divide the width, the head size or the inner size.
void check_activation_groups(const ActivationGroups& groups, const ModelConfig& config);

// Error(usage) if the blocks of a floating-point format do not divide the width, the joined heads,
// the inner size or, in the cache, the head size.
void check_float_blocks(const BitWidths& bits, const ModelConfig& config);

// The inputs of linear layers whose mean over tokens is subtracted before they are rounded.
enum class MeanOffset {
  none,
  residual,  // those of q, k, v and of gate and up, which read the residual stream
  all,       // and those of the output and the down projection
};

MeanOffset parse_mean_offset(const std::string& text);
std::string mean_offset_name(MeanOffset inputs);
// The tap points of these inputs, in the order of the forward pass.
std::span<const TapPoint> offset_points(MeanOffset inputs);

// Offsets, fp32 [channels], by (tap point, layer), of inputs after the online transforms.
using InputOffsets = std::map<std::pair<TapPoint, int64_t>, at::Tensor>;

struct ActivationGrids {
  ActivationScales scales = {};  // static ones; a point without one is quantized dynamically
  ClipRatios clips = {};         // of dynamic grids
  ActivationGroups groups = {};  // of dynamic grids
  InputOffsets offsets = {};     // of both
};

}  // namespace osp
