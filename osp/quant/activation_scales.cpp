#include "osp/quant/activation_scales.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/quant/float_grid.h"

namespace osp {
namespace {

constexpr double kLargestNormal = 8.0;  // beyond it lies 1e-15 of the law
constexpr int kIntegrationSteps = 8000;
constexpr int kRatioSteps = 80;
constexpr int64_t kSearchNumbers = 1 << 20;  // of a calibrated tensor that the search looks at

// E[(x − quantized)²] by the midpoint rule, up to a constant factor.
double gaussian_error(double step, int64_t bits) {
  const double low = -std::ldexp(1.0, static_cast<int>(bits) - 1);
  const double width = 2.0 * kLargestNormal / kIntegrationSteps;
  double sum = 0.0;
  for (int i = 0; i < kIntegrationSteps; ++i) {
    const double x = -kLargestNormal + (i + 0.5) * width;
    const double q = step * std::clamp(std::nearbyint(x / step), low, -low - 1.0);
    sum += (x - q) * (x - q) * std::exp(-0.5 * x * x);
  }
  return sum;
}

// The value that all channel weights of a norm share.
double common_gain(const ParameterStore& store, ParameterRole norm, int64_t layer) {
  const int64_t parameter = store.find(norm, layer);
  if (parameter < 0) return 1.0;  // a norm without weights
  const at::Tensor gain = store.master(parameter);
  const double low = gain.min().item<double>(), high = gain.max().item<double>();
  if (low != high) {
    fail(ErrorCode::unsupported,
         "{}: its channel weights lie between {} and {}, so one static scale does not fit all "
         "rows; fold the norms first (a rotation does) or use dynamic scales",
         parameter_name(norm, layer), low, high);
  }
  return std::abs(low);
}

}  // namespace

double gaussian_step(int64_t bits) {
  const double ratio = (std::sqrt(5.0) - 1.0) / 2.0;
  double low = 0.5 / std::ldexp(1.0, static_cast<int>(bits) - 1);
  double high = kLargestNormal / std::ldexp(1.0, static_cast<int>(bits) - 1);
  for (int i = 0; i < 40; ++i) {
    const double a = high - ratio * (high - low), b = low + ratio * (high - low);
    (gaussian_error(a, bits) < gaussian_error(b, bits) ? high : low) =
        gaussian_error(a, bits) < gaussian_error(b, bits) ? b : a;
  }
  return (low + high) / 2.0;
}

void check_norm_scales(const ModelConfig& config) {
  if (!config.norm_before()) {
    fail(ErrorCode::unsupported,
         "one static scale after each norm: {}, so linear layers read the residual stream itself, "
         "whose size changes; use per-token or per-tensor scales",
         config.norm_after ? "in this family the norms follow the blocks"
                           : "this model has no norms in its blocks");
  }
}

ActivationScales norm_scales(const ParameterStore& store, int64_t layer, int64_t bits) {
  check_norm_scales(store.config);
  const double step = gaussian_step(bits);
  const double zero = std::ldexp(1.0, static_cast<int>(bits) - 1);
  // Branches side by side may share the first norm.
  const ParameterRole first = ParameterRole::input_norm;
  const ParameterRole second =
      store.config.shared_norm ? first : ParameterRole::post_attention_norm;
  return {{{TapPoint::attention_input, layer}, {step * common_gain(store, first, layer), zero}},
          {{TapPoint::mlp_input, layer}, {step * common_gain(store, second, layer), zero}}};
}

StaticScale calibrated_scale(const at::Tensor& x, const NumberFormat& format) {
  if (format.is_float()) {
    const float absmax = x.detach().to(at::kFloat).abs().max().item<float>();
    if (!std::isfinite(absmax)) {
      fail(ErrorCode::unsupported, "the calibration activations are not finite");
    }
    return {float_constant(absmax, format.kind), 0.0};
  }
  const int64_t bits = format.bits;
  const double top = std::ldexp(1.0, static_cast<int>(bits)) - 1.0;
  at::Tensor numbers = x.detach().to(at::kFloat).flatten();
  double low = std::min(0.0, numbers.min().item<double>());
  double high = std::max(0.0, numbers.max().item<double>());
  if (!std::isfinite(low) || !std::isfinite(high)) {
    fail(ErrorCode::unsupported, "the calibration activations are not finite");
  }
  if (high - low == 0.0) std::tie(low, high) = std::pair(-1.0, 1.0);
  const int64_t stride = std::max<int64_t>(1, numbers.numel() / kSearchNumbers);
  numbers = numbers.slice(0, 0, numbers.numel(), stride);
  StaticScale best;
  double best_error = -1.0;
  for (int i = 0; i < kRatioSteps; ++i) {
    const double p = 1.0 - i / 100.0;
    const StaticScale now{p * (high - low) / top, std::nearbyint(-low * top / (high - low))};
    const double error = fake_quantize_static(numbers, bits, now)
                             .sub_(numbers)
                             .square_()
                             .sum(at::kDouble)
                             .item<double>();
    if (best_error >= 0.0 && error >= best_error) continue;
    best_error = error;
    best = now;
  }
  return best;
}

at::Tensor fake_quantize_static(const at::Tensor& x, int64_t bits, const StaticScale& scale) {
  const double top = std::ldexp(1.0, static_cast<int>(bits)) - 1.0;
  return x.detach()
      .to(at::kFloat)
      .div(scale.scale)
      .round_()
      .add_(scale.zero)
      .clamp_(0.0, top)
      .sub_(scale.zero)
      .mul_(scale.scale)
      .to(x.scalar_type());
}

}  // namespace osp
