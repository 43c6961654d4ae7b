#include "osp/quant/weight_quantizer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/quant/float_grid.h"
#include "osp/quant/grid.h"
#include "osp/quant/grid_search.h"

namespace osp {
namespace {

constexpr double kSmallestFp16 = 0x1p-24;
constexpr double kRangeOfZeros = 1e-5;    // of a group of zeros
constexpr double kSmallestRange = 1e-30;  // below it a group counts as zeros

int64_t smallest_code(int64_t bits) { return -(int64_t{1} << (bits - 1)); }

// Codes of grouped weights [rows, group] for scales and zeros [rows, 1].
at::Tensor codes_of(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero,
                    int64_t bits) {
  const double low = static_cast<double>(smallest_code(bits));
  at::Tensor codes = x.div(scale).round_();
  if (zero.defined()) codes.add_(zero);
  return codes.clamp_(low, -low - 1.0);
}

// Scale and zero for the range [p · low, p · high].
GridParameters asymmetric_range(const at::Tensor& low, const at::Tensor& high, double p,
                                const WeightGrid& grid) {
  const double top = static_cast<double>((int64_t{1} << grid.bits) - 1);
  at::Tensor range = high.sub(low);
  const at::Tensor zeros = range.lt(kSmallestRange);
  range.masked_fill_(zeros, kRangeOfZeros);
  at::Tensor scale = range.mul_(p).div_(top);
  if (grid.fp16_scales) {
    scale = round_to_fp16(scale);
    scale.masked_fill_(zeros.logical_and(scale.lt(kSmallestFp16)), kSmallestFp16);
  }
  const at::Tensor zero = low.mul(-p).div_(scale).round_().clamp_(0.0, top);
  return {scale, zero.add(static_cast<double>(smallest_code(grid.bits)))};
}

// The best range of each row of x [rows, group].
GridParameters asymmetric_grid(const at::Tensor& x, const WeightGrid& grid) {
  const at::Tensor low = x.amin(-1, /*keepdim=*/true).clamp_max_(0.0);
  const at::Tensor high = x.amax(-1, /*keepdim=*/true).clamp_min_(0.0);
  if (!grid.clipping_search) return asymmetric_range(low, high, 1.0, grid);
  at::Tensor scales = x.new_empty({kSearchSteps, x.size(0)}), zeros = at::empty_like(scales);
  for (int64_t i = 0; i < kSearchSteps; ++i) {
    const GridParameters now = asymmetric_range(low, high, search_ratio(i), grid);
    scales.select(0, i).copy_(now.scale.squeeze(1));
    zeros.select(0, i).copy_(now.zero.squeeze(1));
  }
  const double smallest = static_cast<double>(smallest_code(grid.bits));
  const at::Tensor best = best_candidates(x, scales, zeros, smallest, -smallest - 1.0).unsqueeze(0);
  return {scales.gather(0, best).view({-1, 1}), zeros.gather(0, best).view({-1, 1})};
}

// [out, in] as rows of one group each.
at::Tensor grouped(const at::Tensor& weight, int64_t group) {
  return weight.reshape({-1, group == 0 ? weight.size(1) : group});
}

// Σ |quantized − w|^2.4 of each block, fp64 [rows, blocks].
at::Tensor block_errors(const at::Tensor& w, const FloatScales& scales, const WeightGrid& grid) {
  const GridParameters parameters{.scale = scales.scale, .zero = {}, .global = scales.global};
  const at::Tensor difference = nearest_codes(w, parameters, grid).dequantized().sub_(w);
  const int64_t blocks = scales.scale.size(1);
  return difference.to(at::kDouble).abs_().pow_(kErrorPower).view({w.size(0), blocks, -1}).sum(-1);
}

// The scales of the p with the least error in each block.
FloatScales searched_scales(const at::Tensor& w, const WeightGrid& grid) {
  FloatScales best = float_scales(w, grid.kind, grid.shared_largest);
  const float largest = std::max(grid.shared_largest, w.abs().max().item<float>());
  at::Tensor least = block_errors(w, best, grid), last = best.scale;
  for (int64_t i = 1; i < kSearchSteps; ++i) {
    const FloatScales now = float_scales(w.mul(search_ratio(i)), grid.kind, largest);
    if (now.scale.equal(last)) continue;  // a power of two stands for many p
    last = now.scale;
    const at::Tensor errors = block_errors(w, now, grid);
    const at::Tensor better = errors.lt(least);
    best.scale = at::where(better, now.scale, best.scale);
    least = at::where(better, errors, least);
  }
  return best;
}

// Scales of a finite floating-point grid.
GridParameters float_grid_of(const at::Tensor& w, const WeightGrid& grid, const std::string& what) {
  const NumberKind kind = grid.kind;
  const FloatScales scales =
      grid.clipping_search ? searched_scales(w, grid) : float_scales(w, kind, grid.shared_largest);
  const GridParameters result{.scale = scales.scale, .zero = {}, .global = scales.global};
  // The largest number times the scale must be finite as well.
  const double most = kind == NumberKind::fp8 ? 448.0 : 6.0;
  if (!at::isfinite(result.effective().mul(most)).all().item<bool>()) {
    fail(ErrorCode::unsupported, "{}: weights of {} are beyond the scales of {}", what,
         w.abs().max().item<double>(), number_kind_name(kind));
  }
  return result;
}

}  // namespace

WeightGrid float_weight_grid(NumberKind kind) {
  const NumberFormat format = kind;
  OSP_CHECK(format.is_float(), "integers have many grids");
  return {.bits = format.bits, .group = block_size(kind), .clipping_search = false, .kind = kind};
}

at::Tensor GridParameters::effective() const {
  return global.defined() ? scale.div(global) : scale;
}

GridParameters find_grid(const at::Tensor& weight, const WeightGrid& grid,
                         const std::string& what) {
  OSP_CHECK(weight.dim() == 2, "{}: a matrix expected, got {} dimensions", what, weight.dim());
  check_group(grid.group, weight.size(1), what);
  const at::Tensor w = weight.detach().to(at::kFloat);
  if (!at::isfinite(w).all().item<bool>()) {
    fail(ErrorCode::damaged, "{}: a weight is NaN or infinite; the model file is damaged", what);
  }
  if (!grid.is_integer()) return float_grid_of(w, grid, what);
  const at::Tensor x = grouped(w, grid.group);
  GridParameters result;
  if (grid.symmetric) {
    result.scale = quantize_symmetric(x, grid.bits, grid.clipping_search, grid.fp16_scales).scale;
  } else {
    result = asymmetric_grid(x, grid);
    result.zero = result.zero.view({w.size(0), -1});
  }
  result.scale = result.scale.view({w.size(0), -1});
  if (!at::isfinite(result.scale).all().item<bool>()) {
    fail(ErrorCode::unsupported, "{}: weights of {} need a scale above the largest fp16 number",
         what, w.abs().max().item<double>());
  }
  return result;
}

QuantizedLinear with_codes(const at::Tensor& codes, const GridParameters& parameters,
                           const WeightGrid& grid) {
  QuantizedLinear result;
  result.kind = grid.kind;
  result.global = parameters.global;
  result.codes = grid.is_integer() ? codes.to(at::kChar).contiguous()
                                   : codes_of_values(codes, grid.kind).contiguous();
  result.scale = parameters.scale.contiguous();
  if (parameters.zero.defined()) result.zero = parameters.zero.to(at::kChar).contiguous();
  result.bits = grid.bits;
  result.group = grid.group;
  return result;
}

QuantizedLinear nearest_codes(const at::Tensor& weight, const GridParameters& parameters,
                              const WeightGrid& grid) {
  if (!grid.is_integer()) {
    const at::Tensor w = weight.detach().to(at::kFloat);
    return with_codes(float_values(w, grid.kind, parameters.effective()), parameters, grid);
  }
  const at::Tensor x = grouped(weight.detach().to(at::kFloat), grid.group);
  const at::Tensor zero =
      parameters.zero.defined() ? parameters.zero.reshape({-1, 1}) : at::Tensor();
  const at::Tensor codes = codes_of(x, parameters.scale.reshape({-1, 1}), zero, grid.bits);
  return with_codes(codes.view(weight.sizes()), parameters, grid);
}

QuantizedLinear round_to_nearest(const at::Tensor& weight, const WeightGrid& grid,
                                 const std::string& what) {
  return nearest_codes(weight, find_grid(weight, grid, what), grid);
}

double signal_to_noise_db(const at::Tensor& weight, const at::Tensor& quantized) {
  const double signal = weight.to(at::kDouble).square().sum().item<double>();
  const double noise = weight.to(at::kDouble).sub(quantized).square().sum().item<double>();
  if (noise == 0.0) return std::numeric_limits<double>::infinity();
  return 10.0 * std::log10(signal / noise);
}

}  // namespace osp
