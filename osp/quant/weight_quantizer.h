// Grids for weights and round-to-nearest onto them: integers of 2 to 8 bits, one scale per output
// channel or per group of columns, symmetric or asymmetric, with or without a clipping search; or
// floating-point numbers with the scales of osp/quant/float_grid.h, with or without that search.
//
//   symmetric    scale = p · absmax / (2^(b−1) − 1)
//   asymmetric   scale = p · (high − low) / (2^b − 1), zero = round(−p · low / scale),
//                low = min(0, smallest), high = max(0, largest)
//
// p = 1, or with the search the one of 1 − i/100, i = 0 … 79, with the least Σ |quantized − w|^2.4
// of the group; among equals the largest. Of floating-point numbers p multiplies what the scale of
// a block or row is made from, and leaves NVFP4's constant as it is.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "osp/quant/quantized_linear.h"

namespace osp {

struct WeightGrid {
  int64_t bits = 4;
  int64_t group = 0;  // columns that share a scale; 0: the whole row
  bool symmetric = true;
  bool clipping_search = true;
  bool fp16_scales = false;  // scales rounded to fp16 before the codes are chosen
  // Floating-point kinds: symmetric, and `group` is the block of the format.
  NumberKind kind = NumberKind::integer;
  // NVFP4: the largest magnitude of the weights under the same constant
  // (osp/quant/joined_layers.h); 0: the weight has a constant of its own.
  float shared_largest = 0.0f;

  bool is_integer() const { return kind == NumberKind::integer; }
};

// The grid of a floating-point format, without a search.
WeightGrid float_weight_grid(NumberKind kind);

// Scales and zeros [out, groups], fp32 whole numbers for zeros in the range of the codes; zero is
// undefined for a symmetric grid. global: that of NVFP4, fp32 [1].
struct GridParameters {
  at::Tensor scale = {}, zero = {}, global = {};

  // The divisors of weights: scale, or scale / global.
  at::Tensor effective() const;
};

// The grid of a weight [out, in]. `what` names the weight in errors: Error(usage) if the group does
// not divide the columns, Error(damaged) if a weight is not finite, Error(unsupported) if a scale
// does not fit fp16 where that is wanted, or weights lie beyond what the number format reaches.
GridParameters find_grid(const at::Tensor& weight, const WeightGrid& grid, const std::string& what);

// The nearest codes of a weight on given scales.
QuantizedLinear nearest_codes(const at::Tensor& weight, const GridParameters& parameters,
                              const WeightGrid& grid);

// The struct around given codes (fp32 whole numbers, or the numbers c of a floating-point format).
QuantizedLinear with_codes(const at::Tensor& codes, const GridParameters& parameters,
                           const WeightGrid& grid);

// find_grid, then nearest_codes.
QuantizedLinear round_to_nearest(const at::Tensor& weight, const WeightGrid& grid,
                                 const std::string& what);

// 10 log10(‖w‖² / ‖w − quantized‖²) in dB; infinite if equal.
double signal_to_noise_db(const at::Tensor& weight, const at::Tensor& quantized);

}  // namespace osp
