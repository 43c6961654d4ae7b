#include "osp/quant/grid.h"

#include <ATen/ops/amax.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/quant/grid_search.h"

namespace osp {
namespace {

// In place of the largest number of a row of zeros; a row of small numbers has its own, since a
// factor that moves between two layers changes no model.
constexpr double kAbsmaxOfZeros = 1e-5;
constexpr double kSmallestHalf = 0x1p-24;
// Rows below it count as zeros: their scales would not be normal fp32 numbers.
constexpr double kSmallestNormal = 1e-30;

double largest_symmetric_code(int64_t bits) {
  return static_cast<double>((int64_t{1} << (bits - 1)) - 1);
}

double largest_asymmetric_code(int64_t bits) {
  return static_cast<double>((int64_t{1} << bits) - 1);
}

void check_bits(int64_t bits) {
  OSP_CHECK(bits >= 2 && bits <= 8, "a grid of {} bits; parse_bits allows 2 to 8", bits);
}

at::Tensor symmetric_codes(const at::Tensor& x, const at::Tensor& scale, double top) {
  return x.div(scale).round_().clamp_(-top - 1.0, top);
}

// The best scale of each row of x [rows, columns] (fp32), given the unclipped absmax [rows, 1].
at::Tensor search_scale(const at::Tensor& x, const at::Tensor& absmax, double top,
                        bool fp16_scales) {
  at::Tensor candidates = at::empty({kSearchSteps, x.size(0)}, at::kFloat);
  for (int64_t i = 0; i < kSearchSteps; ++i) {
    candidates.select(0, i).copy_(absmax.squeeze(1).mul(search_ratio(i)).div_(top));
  }
  if (fp16_scales) candidates = round_to_fp16(candidates);
  const at::Tensor best = best_candidates(x, candidates, {}, -top - 1.0, top);
  return candidates.gather(0, best.unsqueeze(0)).view({-1, 1});
}

}  // namespace

at::Tensor SymmetricCodes::dequantized() const { return codes.mul(scale); }

at::Tensor AsymmetricCodes::dequantized() const { return codes.sub(zero).mul_(scale); }

at::Tensor round_to_fp16(const at::Tensor& scale) {
  // Scales that fp16 would make 0, or twice as large, stay as they are.
  return at::where(scale.lt(kSmallestHalf), scale, scale.to(at::kHalf).to(at::kFloat));
}

SymmetricCodes quantize_symmetric(const at::Tensor& weight, int64_t bits, bool clipping_search,
                                  bool fp16_scales) {
  check_bits(bits);
  OSP_CHECK(weight.dim() == 2, "a weight matrix expected, got {} dimensions", weight.dim());
  const at::Tensor x = weight.detach().to(at::kFloat);
  const double top = largest_symmetric_code(bits);
  at::Tensor absmax = x.abs().amax(-1, /*keepdim=*/true);
  absmax.masked_fill_(absmax.lt(kSmallestNormal), kAbsmaxOfZeros);
  at::Tensor scale = absmax.div(top);
  if (fp16_scales) scale = round_to_fp16(scale);
  if (clipping_search) scale = search_scale(x, absmax, top, fp16_scales);
  return {.codes = symmetric_codes(x, scale, top), .scale = scale};
}

AsymmetricCodes quantize_asymmetric(const at::Tensor& x, int64_t bits, int64_t group,
                                    GroupRange range, double clip) {
  check_bits(bits);
  OSP_CHECK(group > 0 && x.size(-1) % group == 0, "groups of {} in rows of {}", group, x.size(-1));
  const double top = largest_asymmetric_code(bits);
  const at::Tensor grouped = x.detach().to(at::kFloat).reshape({-1, x.size(-1) / group, group});
  at::Tensor low = grouped.amin(-1, /*keepdim=*/true);
  at::Tensor high = grouped.amax(-1, /*keepdim=*/true);
  if (range == GroupRange::contains_zero) {
    low.clamp_max_(0.0);
    high.clamp_min_(0.0);
  }
  if (clip != 1.0) {
    low.mul_(clip);
    high.mul_(clip);
  }
  at::Tensor scale = high.sub(low).div_(top);
  at::Tensor degenerate = scale.eq(0.0);
  low = at::where(degenerate, low.clamp_max(0.0), low);
  high = at::where(degenerate, high.clamp_min(0.0), high);
  scale = high.sub(low).div_(top);
  degenerate = scale.eq(0.0);
  low.masked_fill_(degenerate, -1.0);
  scale.masked_fill_(degenerate, 2.0 / top);
  at::Tensor zero = low.neg().div_(scale).round_();
  at::Tensor codes = grouped.div(scale).round_().add_(zero).clamp_(0.0, top);
  return {.codes = codes, .scale = scale, .zero = zero};
}

at::Tensor fake_quantize_symmetric(const at::Tensor& weight, int64_t bits, bool clipping_search) {
  return quantize_symmetric(weight, bits, clipping_search).dequantized().to(weight.scalar_type());
}

at::Tensor fake_quantize_asymmetric(const at::Tensor& x, int64_t bits, int64_t group,
                                    GroupRange range, double clip) {
  return quantize_asymmetric(x, bits, group, range, clip)
      .dequantized()
      .view(x.sizes())
      .to(x.scalar_type());
}

void fake_quantize_symmetric_reference(std::span<float> row, int64_t bits, bool clipping_search) {
  const float top = static_cast<float>(largest_symmetric_code(bits));
  float absmax = 0.0f;
  for (const float x : row) absmax = std::max(absmax, std::abs(x));
  if (absmax < static_cast<float>(kSmallestNormal)) absmax = static_cast<float>(kAbsmaxOfZeros);
  const auto quantized = [&](float x, float scale) {
    return std::clamp(std::nearbyint(x / scale), -top - 1.0f, top) * scale;
  };
  float best_scale = absmax / top;
  double best_error = std::numeric_limits<double>::infinity();
  for (int i = 0; clipping_search && i < kSearchSteps; ++i) {
    const float scale = absmax * static_cast<float>(search_ratio(i)) / top;
    double error = 0.0;
    for (const float x : row) error += std::pow(std::abs(quantized(x, scale) - x), kErrorPower);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
    }
  }
  for (float& x : row) x = quantized(x, best_scale);
}

void fake_quantize_asymmetric_reference(std::span<float> group, int64_t bits, GroupRange range,
                                        double clip) {
  const float top = static_cast<float>(largest_asymmetric_code(bits));
  float low = *std::min_element(group.begin(), group.end());
  float high = *std::max_element(group.begin(), group.end());
  const auto stretch = [&] {
    low = std::min(low, 0.0f);
    high = std::max(high, 0.0f);
  };
  if (range == GroupRange::contains_zero) stretch();
  low *= static_cast<float>(clip);
  high *= static_cast<float>(clip);
  if ((high - low) / top == 0.0f) stretch();
  if ((high - low) / top == 0.0f) {
    low = -1.0f;
    high = 1.0f;
  }
  const float scale = (high - low) / top;
  const float zero = std::nearbyint(-low / scale);
  for (float& x : group) {
    x = scale * (std::clamp(std::nearbyint(x / scale) + zero, 0.0f, top) - zero);
  }
}

}  // namespace osp
