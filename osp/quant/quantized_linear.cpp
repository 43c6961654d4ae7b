#include "osp/quant/quantized_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/quant/float_grid.h"

namespace osp {

at::Tensor dequantized_floats(const at::Tensor& values, const at::Tensor& effective,
                              NumberKind kind) {
  const at::Tensor grouped = values.view({effective.size(0), effective.size(1), -1});
  const at::Tensor product = grouped.mul(effective.unsqueeze(-1)).view(values.sizes());
  return kind == NumberKind::nvfp4 ? product.to(at::kBFloat16).to(at::kFloat) : product;
}

at::Tensor QuantizedLinear::dequantized() const {
  if (!is_integer()) {
    return dequantized_floats(values_of_codes(codes, kind), FloatScales{scale, global}.effective(),
                              kind);
  }
  at::Tensor grouped = codes.to(at::kFloat).view({rows(), groups(), -1});
  if (!symmetric()) grouped = grouped.sub(zero.to(at::kFloat).unsqueeze(-1));
  return grouped.mul(scale.unsqueeze(-1)).view({rows(), columns()});
}

void check_group(int64_t group, int64_t columns, const std::string& what) {
  if (group == 0 || (group > 0 && columns % group == 0)) return;
  fail(
      ErrorCode::usage,
      "{}: groups of {} do not divide its {} columns; choose a group that does, or 0 for one scale "
      "per output channel",
      what, group, columns);
}

namespace {

// The rules of floating-point codes; `rule` refuses what does not hold.
template <class Rule>
void check_floats(const QuantizedLinear& q, const Rule& rule) {
  rule(q.codes.defined() && q.codes.dim() == 2 && q.codes.scalar_type() == at::kChar,
       "codes must be int8 [out, in]");
  const int64_t block = block_size(q.kind);
  rule(q.group == block && (block == 0 || q.columns() % block == 0),
       "the block of the number format must divide the columns");
  const int64_t groups = block == 0 ? 1 : q.columns() / block;
  rule(q.scale.defined() && q.scale.scalar_type() == at::kFloat && q.scale.dim() == 2 &&
           q.scale.size(0) == q.rows() && q.scale.size(1) == groups,
       "scales must be fp32 [out, blocks]");
  rule(q.symmetric(), "floating-point numbers have no zero points");
  rule(q.global.defined() == (q.kind == NumberKind::nvfp4),
       "a global scale belongs to NVFP4 and to nothing else");
  if (q.codes.numel() == 0) return;
  rule(at::isfinite(q.scale).all().item<bool>(),
       q.kind == NumberKind::mxfp4   ? "a scale is NaN (code 255 of E8M0)"
       : q.kind == NumberKind::nvfp4 ? "a scale is NaN (E4M3 has no infinity)"
                                     : "a scale is not finite");
  rule(q.scale.min().item<float>() > 0.0f, "scales must be positive");
  if (q.kind == NumberKind::nvfp4) {
    rule(q.global.numel() == 1 && q.global.scalar_type() == at::kFloat,
         "the global scale must be one fp32 number");
    const float global = q.global.item<float>();
    rule(std::isfinite(global) && global > 0.0f, "the global scale must be positive and finite");
    rule(at::isfinite(q.scale.div(q.global)).all().item<bool>(),
         "a scale divided by the global scale is beyond fp32");
  }
  if (q.kind == NumberKind::fp8) {
    rule(at::isfinite(values_of_codes(q.codes, q.kind)).all().item<bool>(), "a code is NaN");
  } else {
    rule(q.codes.min().item<int64_t>() >= 0 && q.codes.max().item<int64_t>() < 16,
         "a code lies outside four bits");
  }
}

}  // namespace

void check_quantized(const QuantizedLinear& q, const std::string& what) {
  const auto rule = [&](bool holds, const char* text) {
    if (!holds) fail(ErrorCode::damaged, "{}: {}", what, text);
  };
  if (!q.is_integer()) return check_floats(q, rule);
  rule(q.bits >= 2 && q.bits <= 8, "codes must have 2 to 8 bits");
  rule(q.codes.defined() && q.codes.dim() == 2 && q.codes.scalar_type() == at::kChar,
       "codes must be int8 [out, in]");
  rule(q.group >= 0 && (q.group == 0 || q.columns() % q.group == 0),
       "the group size must divide the columns");
  const int64_t groups = q.group == 0 ? 1 : q.columns() / q.group;
  rule(q.scale.defined() && q.scale.scalar_type() == at::kFloat && q.scale.dim() == 2 &&
           q.scale.size(0) == q.rows() && q.scale.size(1) == groups,
       "scales must be fp32 [out, groups]");
  rule(q.symmetric() || (q.zero.scalar_type() == at::kChar && q.zero.sizes() == q.scale.sizes()),
       "zeros must be int8 [out, groups]");
  if (q.codes.numel() == 0) return;
  const int64_t low = -(int64_t{1} << (q.bits - 1)), high = -low - 1;
  rule(q.codes.min().item<int64_t>() >= low && q.codes.max().item<int64_t>() <= high,
       "a code lies outside the range of its bits");
  rule(q.symmetric() ||
           (q.zero.min().item<int64_t>() >= low && q.zero.max().item<int64_t>() <= high),
       "a zero lies outside the range of its bits");
  rule(at::isfinite(q.scale).all().item<bool>() && q.scale.min().item<float>() > 0.0f,
       "scales must be positive and finite");
}

}  // namespace osp
