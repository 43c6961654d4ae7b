#include "osp/quant/grid_search.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <limits>

#include "osp/base/error.h"
#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"
#include "osp/quant/grid_kernels.h"

namespace osp {
namespace {

constexpr int64_t kSearchedPerTask = 1 << 14;

}  // namespace

at::Tensor best_candidates(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& zero,
                           double low, double high) {
  const int64_t rows = x.size(0), n = x.size(1);
  OSP_CHECK(x.scalar_type() == at::kFloat && scale.dim() == 2 && scale.size(1) == rows,
            "candidates for {} rows", rows);
  const at::Tensor numbers = x.contiguous(), scales = scale.contiguous();
  const at::Tensor zeros = zero.defined() ? zero.contiguous() : zero;
  at::Tensor best = at::empty({rows}, at::kLong);
  const auto search = for_active_isa(kernels::grid_search_portable, kernels::grid_search_avx2,
                                     kernels::grid_search_avx512);
  const int64_t rows_per_task = std::max<int64_t>(1, kSearchedPerTask / std::max<int64_t>(1, n));
  for_each_task((rows + rows_per_task - 1) / rows_per_task, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * rows_per_task);
    for (int64_t row = task * rows_per_task; row < end; ++row) {
      best.data_ptr<int64_t>()[row] =
          search(numbers.const_data_ptr<float>() + row * n, n, scales.const_data_ptr<float>() + row,
                 zeros.defined() ? zeros.const_data_ptr<float>() + row : nullptr, rows,
                 scales.size(0), static_cast<float>(low), static_cast<float>(high));
    }
  });
  return best;
}

at::Tensor best_candidates_reference(const at::Tensor& x, const at::Tensor& scale,
                                     const at::Tensor& zero, double low, double high) {
  at::Tensor best = at::zeros({x.size(0)}, at::kLong);
  at::Tensor least = at::full({x.size(0)}, std::numeric_limits<double>::infinity(), at::kDouble);
  for (int64_t c = 0; c < scale.size(0); ++c) {
    const at::Tensor s = scale.select(0, c).unsqueeze(1);
    at::Tensor codes = x.div(s).round_();
    const at::Tensor z = zero.defined() ? zero.select(0, c).unsqueeze(1) : at::zeros_like(s);
    codes = codes.add_(z).clamp_(low, high);
    const at::Tensor error =
        codes.sub_(z).mul_(s).sub_(x).abs_().to(at::kDouble).pow_(kErrorPower).sum(1);
    const at::Tensor better = error.lt(least);
    best.masked_fill_(better, c);
    least = at::where(better, error, least);
  }
  return best;
}

}  // namespace osp
