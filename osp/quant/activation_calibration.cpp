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

class ScaleTap : public LinearInputTap {
 public:
  ScaleTap(const ParameterStore& store, const OnlineTransforms& online, int64_t bits)
      : LinearInputTap(store, online), bits_(bits) {}

  ActivationScales scales;

 private:
  void see(TapPoint point, int64_t layer, const at::Tensor& input) override {
    scales[{point, layer}] = calibrated_scale(input, bits_);
  }

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
