// Quantization-aware training: the grids of FakeQuantTap inside the training forward pass.
//
//   forward:   y = Q(x)            (keys: y = Q(x·H), queries: y = x·H, H the orthonormal Hadamard)
//   backward:  dx = dy             (keys and queries: dx = dy·Hᵀ)
//
// The straight-through estimator: rounding counts as the identity in the backward pass, on weights,
// activations, keys and values alike (Bengio et al. 2013, arXiv 1308.3432). Weights are quantized
// per output channel by their largest element, without the clipping search, which would cost more
// than the step itself; master weights stay in fp32. Of the inputs of linear layers all are
// quantized, or those that are named (`qat.points`): the SwiGLU product alone, say.
#pragma once

#include <set>
#include <string>

#include "osp/quant/fake_quant.h"

namespace osp {

// The inputs of linear layers that "all" or a list of names separated by commas says, each
// attention_input, attention_output, mlp_input or mlp_product. Error(usage) for others.
std::set<TapPoint> parse_input_points(const std::string& text);

// Fits one training step: made anew whenever the weights change. Each weight is quantized once and
// serves all micro-batches of the step.
class QatTap : public FakeQuantTap {
 public:
  // `points`: the inputs of linear layers that are quantized, if bits.activations says so. Keys,
  // values and weights follow the bits alone. Error(unsupported) as FakeQuantTap.
  QatTap(const ParameterStore& store, const BitWidths& bits,
         const std::set<TapPoint>& points = parse_input_points("all"))
      : FakeQuantTap(store, bits), points_(points) {}

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override;

 protected:
  at::Tensor quantized_weight(const at::Tensor& w) const override;

 private:
  std::set<TapPoint> points_;
};

}  // namespace osp
