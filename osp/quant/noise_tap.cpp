#include "osp/quant/noise_tap.h"

#include <ATen/TensorOperators.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/hadamard.h"

namespace osp {
namespace {

// Keys of a head size without a Hadamard matrix are looked at as they are.
OnlineTransforms possible_transforms(OnlineTransforms online, int64_t head_size) {
  try {
    check_hadamard_size(head_size, "head size");
  } catch (const Error&) {
    online.query_key_hadamard = false;
  }
  return online;
}

double decibels(double ratio) { return 10.0 * std::log10(ratio); }

}  // namespace

double QuantizationNoise::sqnr_db() const { return decibels(signal / noise); }
double QuantizationNoise::sqnr_per_token_db() const {
  return -decibels(relative_noise / static_cast<double>(groups));
}
double QuantizationNoise::predicted_sqnr_db() const { return decibels(signal / predicted_noise); }

NoiseTap::NoiseTap(const ParameterStore& store, int64_t bits, const OnlineTransforms& online)
    : bits_(bits),
      head_size_(store.config.head_size),
      transforms_(store, {}, online),
      quantizers_(store, BitWidths{16, bits, bits}, possible_transforms(online, head_size_)),
      key_hadamard_(possible_transforms(online, head_size_).query_key_hadamard) {}

bool NoiseTap::wants(TapPoint point, int64_t layer) const {
  return point != TapPoint::query && quantizers_.wants(point, layer);
}

at::Tensor NoiseTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  if (!wants(point, layer)) return x;
  const at::Tensor seen = point == TapPoint::key ? (key_hadamard_ ? hadamard_transform(x) : x)
                                                 : transforms_.at(point, layer, x);
  const at::Tensor quantized = quantizers_.at(point, layer, x);
  const bool free = point == TapPoint::value || point == TapPoint::attention_output;
  const int64_t group = point == TapPoint::attention_output ? head_size_ : x.size(-1);
  const at::Tensor groups = seen.reshape({-1, group}).to(at::kFloat);
  const at::Tensor error = (quantized.reshape({-1, group}).to(at::kFloat) - groups).square();
  const at::Tensor signal_N = groups.square().sum(-1, false, at::kDouble);
  const at::Tensor noise_N = error.sum(-1, false, at::kDouble);
  at::Tensor low = groups.amin(-1), high = groups.amax(-1);
  if (!free) {
    low = low.clamp_max(0);
    high = high.clamp_min(0);
  }
  const at::Tensor step = (high - low).to(at::kDouble) / static_cast<double>((1 << bits_) - 1);
  QuantizationNoise& noise = noise_[{point, layer}];
  const at::Tensor any = signal_N.gt(0);
  noise.signal += signal_N.sum().item<double>();
  noise.noise += noise_N.sum().item<double>();
  noise.predicted_noise += step.square().sum().item<double>() * static_cast<double>(group) / 12.0;
  noise.relative_noise += (noise_N / signal_N).masked_select(any).sum().item<double>();
  noise.groups += any.sum().item<int64_t>();
  return x;
}

}  // namespace osp
