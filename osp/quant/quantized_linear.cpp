#include "osp/quant/quantized_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>

#include "osp/base/error.h"

namespace osp {

at::Tensor QuantizedLinear::dequantized() const {
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

void check_quantized(const QuantizedLinear& q, const std::string& what) {
  const auto rule = [&](bool holds, const char* text) {
    if (!holds) fail(ErrorCode::damaged, "{}: {}", what, text);
  };
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
