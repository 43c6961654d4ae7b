// The table of roundings: how `osp quantize --method TRANSFORM+ROUNDING` turns the weights of one
// linear layer into integers. A method is one row, defined in its own file (rtn.h, gptq.h)
// and listed in rounding.cpp; parsing, help, the checks before any work and
// quantize_block.cpp ask the row.
//
// Tested by quantize_method_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "osp/quant/quantized_linear.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

struct GptqOptions;  // osp/ptq/gptq.h

// Sums over calibration tokens that a rounding wants of a layer's inputs (osp/ptq/hessian.h).
enum class HessianKind {
  none,
  quantized,                 // H of the inputs as the quantized model produces them
  quantized_and_difference,  // and D, how far they are from those of the unquantized model
};

struct LayerToRound {
  const at::Tensor& weight;      // [out, in]
  const at::Tensor& hessian;     // [in, in]; undefined where the kind is none and no text is given
  const at::Tensor& difference;  // [in, in]; undefined unless the kind asks for it
  const WeightGrid& grid;
  const GptqOptions& options;
  const std::string& name;  // for errors
};

struct RoundedLayer {
  QuantizedLinear quantized;
  double damping = 0.0;      // the factor that was used; larger than asked for if that failed
  int64_t num_attempts = 0;  // Cholesky factorizations tried; 0: there is no Hessian to factorize
  int64_t num_dead = 0;      // input channels that are always 0; their weights become 0
};

struct RoundingRow {
  std::string_view name;      // in --method and in the reports
  std::string_view sentence;  // for help
  HessianKind hessian = HessianKind::none;
  bool always_act_order = false;  // columns by falling H_ii in every profile
  bool alone_in_table = false;    // a row of `--method all` without a transform
  RoundedLayer (*round)(const LayerToRound& layer) = nullptr;

  bool needs_calibration() const { return hessian != HessianKind::none; }
};

// All rows, in the order of help.
std::span<const RoundingRow* const> roundings();

// The row of that name, null if there is none.
const RoundingRow* find_rounding(std::string_view name);

}  // namespace osp
