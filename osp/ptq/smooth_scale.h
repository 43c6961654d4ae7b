// Scales per channel that move between a linear layer's input and its weights without changing the
// model: x_j → x_j / s_j and W_:j → W_:j · s_j. SmoothQuant and AWQ choose s differently.
//
// The division is folded into what makes x, which must be linear in it, channel by channel:
//
//   input of q, k, v        weights of the norm before them (and its bias)
//   input of gate and up    the same; with one norm for both branches they share its scales
//   input of o              rows of v; query heads that share a value head share its scales
//   input of down           rows of up: the product silu(gate) · up is linear in up
//
// A model with SSNorm has one gain for all channels, and one with Simple RMSNorm none: neither can
// carry a scale per channel, and the residual stream cannot either, because a norm divides by the
// mean square over all of its channels. What carries it is the weight per channel that fuse()
// (osp/model/fuse.h) writes in their place, g · [1, …, 1]: the fused model is a plain Llama, whose
// norm has these weights anyway, so a scale costs nothing when it runs. It does end the single
// static activation scale of such models, which needs rows of one mean square.
//
// Tested by smooth_test.cpp.
#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

// Linear layers with a common input, and what makes it. Indices into ParameterStore::specs.
struct ScaleSite {
  TapPoint input;
  int64_t layer = 0;
  std::vector<int64_t> readers;  // weights [out, channels]
  std::vector<int64_t> followers =
      {};                       // weights that take the scale and have no say in it: a router
  std::vector<int64_t> makers;  // tensors whose first dimension is divided
  int64_t channels = 0;         // of the input
  int64_t group = 1;            // neighbouring heads of the input that share scales
  int64_t head_size = 0;        // of such heads; 0 where group is 1
};

// The places of one block where a scale can be folded. Inputs that are not made as the table above
// says (no norm before the block, clipped values, no gate) are omitted.
std::vector<ScaleSite> scale_sites(const ParameterStore& store, int64_t layer);

// One number per channel of the input from one per free channel, and back by the largest or the
// mean of those that share.
at::Tensor expand_channels(const ScaleSite& site, const at::Tensor& free_channels);
at::Tensor largest_of_shared(const ScaleSite& site, const at::Tensor& channels);
at::Tensor mean_of_shared(const ScaleSite& site, const at::Tensor& channels);

// Folds s (positive, one per free channel) into the store, in fp64, rounded once.
void fold_scale(ParameterStore& store, const ScaleSite& site, const at::Tensor& s);

// The check that scales leave a block as it is: they are folded into a copy in fp64 as well, whose
// output for random rows must stay. Like kInvarianceTolerance for rotations (rotation_check.h); a
// scale divides and multiplies, so that a few more roundings are seen.
class FoldingCheck {
 public:
  static constexpr double kTolerance = 1e-11;

  FoldingCheck(const ParameterStore& store, int64_t layer);
  void fold(const ScaleSite& site, const at::Tensor& s);
  // Largest change of the output, as a part of the largest number that the block adds. OSP_CHECK
  // naming `what` if it exceeds kTolerance.
  double expect_unchanged(const char* what) const;

 private:
  ParameterStore wide_;
  int64_t layer_;
  at::Tensor input_, output_;  // fp64 [1, rows, width]
};

// Calibration statistics of one input: largest and mean magnitude per channel, and some rows.
struct ChannelStatistics {
  at::Tensor largest;    // fp64 [channels]
  at::Tensor magnitude;  // fp64 [channels], sum of |x|
  int64_t num_rows = 0;
  at::Tensor rows;  // fp32 [kept, channels], evenly spaced

  at::Tensor mean() const { return magnitude / static_cast<double>(num_rows); }
};

// Collects the statistics of all inputs, at most `kept_rows` rows of each; changes nothing.
class ChannelStatisticsTap : public Tap {
 public:
  // `expected_rows`: tokens that will pass.
  ChannelStatisticsTap(int64_t kept_rows, int64_t expected_rows);
  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

  const ChannelStatistics& of(const ScaleSite& site) const;

 private:
  int64_t stride_;
  std::map<std::pair<TapPoint, int64_t>, ChannelStatistics> statistics_;
};

}  // namespace osp
