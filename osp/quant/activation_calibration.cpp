// Static scales of all inputs of linear layers from one pass over a few calibration windows
// (activation_scales.h).
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "osp/model/transformer.h"
#include "osp/quant/activation_scales.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/quantize_block.h"

namespace osp {
namespace {

constexpr int64_t kWindows = 4;

class ScaleTap : public Tap {
 public:
  ScaleTap(const ParameterStore& store, const OnlineTransforms& online, int64_t bits)
      : inner_(store, {}, online), bits_(bits) {}

  bool wants(TapPoint point, int64_t layer) const override {
    return point == TapPoint::attention_input || point == TapPoint::attention_output ||
           point == TapPoint::mlp_input || point == TapPoint::mlp_product ||
           inner_.wants(point, layer);
  }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    const at::Tensor y = inner_.at(point, layer, x);
    scales[{point, layer}] = calibrated_scale(y, bits_);
    return y;
  }

  ActivationScales scales;

 private:
  FakeQuantTap inner_;
  int64_t bits_;
};

}  // namespace

ActivationScales calibrated_scales(const ParameterStore& store, const OnlineTransforms& online,
                                   const at::Tensor& windows_NT, int64_t bits) {
  const at::NoGradGuard no_grad;
  ScaleTap tap(store, online, bits);
  const int64_t count = std::min(kWindows, windows_NT.size(0));
  forward_hidden(store, windows_NT.narrow(0, 0, count), watched_by(tap));
  return tap.scales;
}

}  // namespace osp
