#include "osp/ptq/gptq.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/quant/float_grid.h"

namespace osp {
namespace {

constexpr double kDampingGrowth = 10.0;
constexpr int64_t kMaxAttempts = 20;  // damping 1e18 times the diagonal makes any H diagonal

// Weights and statistics with columns in the order in which they are rounded.
struct Problem {
  at::Tensor weight;      // fp32 [out, in], dead columns 0
  at::Tensor hessian;     // fp64 [in, in] without damping
  at::Tensor difference;  // fp64 [in, in] or undefined
  at::Tensor order;       // int64 [in]: original column of each place
  int64_t num_dead = 0;
};

struct Factor {
  at::Tensor upper;      // fp64, H⁻¹ = UᵀU
  double added = 0.0;    // to the diagonal
  double damping = 0.0;  // as a factor
  int64_t num_attempts = 0;
};

Problem prepare(const at::Tensor& weight, const at::Tensor& hessian, const at::Tensor& difference,
                bool act_order, const std::string& what) {
  const int64_t in = weight.size(1);
  OSP_CHECK(hessian.dim() == 2 && hessian.size(0) == in && hessian.size(1) == in,
            "{}: a Hessian of [{}, {}] expected", what, in, in);
  Problem p;
  p.hessian = hessian.to(at::kDouble).clone();
  if (!at::isfinite(p.hessian).all().item<bool>()) {
    fail(ErrorCode::unsupported,
         "{}: the inputs of this layer, or their squares, are beyond fp32 on the calibration text; "
         "the model cannot be "
         "calibrated on it",
         what);
  }
  // Dead channels: a unit diagonal makes H invertible, and their weights become 0.
  p.weight = weight.detach().to(at::kFloat).clone();
  const at::Tensor dead = p.hessian.diagonal().eq(0.0);
  p.num_dead = dead.sum().item<int64_t>();
  p.hessian.diagonal().masked_fill_(dead, 1.0);
  p.weight.masked_fill_(dead.unsqueeze(0), 0.0);
  // Columns by falling diagonal, if asked for.
  p.order = act_order ? p.hessian.diagonal().argsort(/*stable=*/true, 0, /*descending=*/true)
                      : at::arange(in, at::kLong);
  if (difference.defined()) p.difference = difference.to(at::kDouble);
  if (act_order) {
    p.weight = p.weight.index_select(1, p.order);
    p.hessian = p.hessian.index_select(0, p.order).index_select(1, p.order);
    if (difference.defined()) {
      p.difference = p.difference.index_select(0, p.order).index_select(1, p.order);
    }
  }
  return p;
}

// H⁻¹ = UᵀU without forming H⁻¹: turning H around both axes, its Cholesky factor L gives H = R Rᵀ
// with R = L turned back (upper triangular), and U = R⁻¹.
std::optional<at::Tensor> inverse_factor(const at::Tensor& hessian, double added) {
  at::Tensor turned = hessian.flip({0, 1});
  turned.diagonal().add_(added);
  const auto [lower, info] = at::linalg_cholesky_ex(turned, /*upper=*/false);
  if (info.item<int64_t>() != 0) return std::nullopt;
  const at::Tensor root = lower.flip({0, 1});
  const at::Tensor identity = at::eye(hessian.size(0), hessian.options());
  at::Tensor upper = at::linalg_solve_triangular(root, identity, /*upper=*/true);
  if (!at::isfinite(upper).all().item<bool>()) return std::nullopt;
  return upper;
}

Factor factorize(const at::Tensor& hessian, const GptqOptions& options, const std::string& what) {
  const bool qronos = options.correction == Correction::qronos;
  const double unit = qronos ? at::linalg_eigvalsh(hessian).max().item<double>()
                             : hessian.diagonal().abs().mean().item<double>();
  Factor factor;
  factor.damping = qronos ? options.qronos_damping : options.damping;
  for (factor.num_attempts = 1; factor.num_attempts <= kMaxAttempts; ++factor.num_attempts) {
    factor.added = factor.damping * unit;
    if (auto upper = inverse_factor(hessian, factor.added)) {
      factor.upper = *upper;
      return factor;
    }
    factor.damping = std::max(factor.damping, 1e-6) * kDampingGrowth;
  }
  OSP_CHECK(false, "{}: no damping makes the Hessian positive definite", what);
}

// Scale and zero of every column in the order of rounding, fp32 [out, in].
at::Tensor per_column(const at::Tensor& of_groups, const at::Tensor& order, int64_t group) {
  const at::Tensor group_of = group == 0 ? at::zeros_like(order) : order.floor_divide(group);
  return of_groups.index_select(1, group_of).contiguous();
}

// The matrices of one call as raw rows, for the loop over a block's columns.
struct Rows {
  float* weight;         // [out, in], updated
  float* codes;          // [out, in], written
  float* errors;         // [out, block], written
  const float* scale;    // [out, in], effective ones of floating-point numbers
  const float* zero;     // [out, in] or null
  const float* upper;    // [in, in]
  const float* forward;  // P [in, in] or null
  int64_t columns, block;
  float low, high;
  NumberKind kind;
};

// A weight on its grid: the code, of a floating-point format the number that it stands for,
// and the value.
struct RoundedWeight {
  float code, value;
};

template <bool is_integer>
RoundedWeight rounded_weight(const Rows& m, float x, float scale, float zero) {
  if constexpr (is_integer) {
    const float code = std::clamp(std::nearbyint(x / scale) + zero, m.low, m.high);
    return {code, (code - zero) * scale};
  }
  const RoundedFloat rounded = round_float(x, scale, m.kind);
  return {rounded.value, rounded.weight};
}

// Rounds columns [begin, end) of one row and spreads the errors within the block.
template <bool is_integer>
void round_row(const Rows& m, int64_t row, int64_t begin, int64_t end) {
  float* const w = m.weight + row * m.columns;
  for (int64_t i = begin; i < end; ++i) {
    const float scale = m.scale[row * m.columns + i];
    const float zero = m.zero != nullptr ? m.zero[row * m.columns + i] : 0.0f;
    const float x = w[i];
    const RoundedWeight rounded = rounded_weight<is_integer>(m, x, scale, zero);
    const float* const u = m.upper + i * m.columns;
    const float error = (x - rounded.value) / u[i];
    m.codes[row * m.columns + i] = rounded.code;
    m.errors[row * m.block + i - begin] = error;
#pragma omp simd
    for (int64_t j = i + 1; j < end; ++j) w[j] -= error * u[j];
    if (m.forward == nullptr) continue;
    const float* const p = m.forward + i * m.columns;
#pragma omp simd
    for (int64_t j = i + 1; j < end; ++j) w[j] += x * p[j];
  }
}

// P = α triu(D Uᵀ, 1) U.
at::Tensor forward_matrix(const at::Tensor& difference, const at::Tensor& upper, double alpha) {
  return at::mm(at::mm(difference, upper.t()).triu(1), upper).mul_(alpha);
}

// One column of weights [out] on its grid.
struct RoundedColumn {
  at::Tensor codes, values;
};

RoundedColumn rounded_column(const at::Tensor& column, const at::Tensor& scale,
                             const at::Tensor& zero, const WeightGrid& grid) {
  if (grid.is_integer()) {
    const double low = -static_cast<double>(int64_t{1} << (grid.bits - 1));
    at::Tensor codes = column.div(scale).round_();
    if (zero.defined()) codes.add_(zero);
    codes.clamp_(low, -low - 1.0);
    return {codes, (zero.defined() ? codes.sub(zero) : codes).mul(scale)};
  }
  const at::Tensor x = column.contiguous(), s = scale.contiguous();
  const RoundedColumn rounded{at::empty_like(x), at::empty_like(x)};
  for (int64_t i = 0; i < x.size(0); ++i) {
    const RoundedFloat r =
        round_float(x.const_data_ptr<float>()[i], s.const_data_ptr<float>()[i], grid.kind);
    rounded.codes.data_ptr<float>()[i] = r.value;
    rounded.values.data_ptr<float>()[i] = r.weight;
  }
  return rounded;
}

// Qronos: rounds the first column for the unquantized inputs and replaces the others by the
// least-squares solution given it. The damping pulls towards the original weights.
void qronos_start(at::Tensor& weight, const Problem& p, const Factor& factor,
                  const at::Tensor& scale, const at::Tensor& zero, const WeightGrid& grid) {
  const int64_t in = weight.size(1);
  if (in == 1) return;
  // Round the first column, given all the others.
  at::Tensor h = p.hessian.clone();
  h.diagonal().add_(factor.added);
  const at::Tensor g = h.add(p.difference.t());  // (X̃ᵀX̃ + λ) + X̃ᵀ(X − X̃)
  const at::Tensor w = weight.to(at::kDouble);
  const at::Tensor wanted = at::mm(w, g.t());  // [out, in]: rows G w
  const at::Tensor rest = w.narrow(1, 1, in - 1);
  const at::Tensor h_row = h.select(0, 0).narrow(0, 1, in - 1);
  const at::Tensor first =
      wanted.select(1, 0).sub(rest.matmul(h_row)).div_(h.select(0, 0).select(0, 0));
  // On the grid: rounding it again gives the same code.
  const at::Tensor q = rounded_column(first.to(at::kFloat), scale.select(1, 0),
                                      zero.defined() ? zero.select(1, 0) : at::Tensor(), grid)
                           .values;
  // Solve for the other columns, given the first. (H_2…)⁻¹ = U_2…ᵀ U_2…: the factor's
  // lower right part.
  const at::Tensor u = factor.upper.narrow(0, 1, in - 1).narrow(1, 1, in - 1);
  const at::Tensor right =
      wanted.narrow(1, 1, in - 1).sub(q.to(at::kDouble).unsqueeze(1).mul(h_row.unsqueeze(0)));
  weight.narrow(1, 1, in - 1).copy_(at::mm(at::mm(right, u.t()), u));
  weight.select(1, 0).copy_(q);
}

template <Correction correction>
RoundedLayer round_by_gptq(const LayerToRound& layer) {
  GptqOptions options = layer.options;
  options.correction = correction;
  return gptq(layer.weight, layer.hessian, layer.difference, layer.grid, options, layer.name);
}

}  // namespace

RoundedLayer gptq(const at::Tensor& weight, const at::Tensor& hessian, const at::Tensor& difference,
                  const WeightGrid& grid, const GptqOptions& options, const std::string& what) {
  OSP_CHECK(difference.defined() == (options.correction != Correction::none),
            "{}: a correction and the matrix for it belong together", what);
  // 1. Find the grid on the weights as they are: scales and zeros stay, codes are chosen below. So
  //    the scales of a block of columns are fixed before the first of them is rounded.
  const GridParameters parameters = find_grid(weight, grid, what);
  // 2. Order the columns, silence dead ones, and factorize the damped Hessian, H⁻¹ = UᵀU.
  Problem p = prepare(weight, hessian, difference, options.act_order, what);
  const Factor factor = factorize(p.hessian, options, what);
  const at::Tensor scale = per_column(parameters.effective(), p.order, grid.group);
  const at::Tensor zero =
      grid.symmetric ? at::Tensor() : per_column(parameters.zero, p.order, grid.group);
  // 3. Prepare the correction: Qronos replaces the weights once, GPTAQ adds P to every update.
  at::Tensor w = p.weight.contiguous();
  if (options.correction == Correction::qronos) {
    qronos_start(w, p, factor, scale, zero, grid);
  }
  at::Tensor forward;
  if (options.correction == Correction::gptaq) {
    forward =
        forward_matrix(p.difference, factor.upper, options.gptaq_alpha).to(at::kFloat).contiguous();
  }
  // 4. Round block by block of columns: column by column inside, then one product for the rest.
  const at::Tensor upper = factor.upper.to(at::kFloat).contiguous();
  const int64_t out = w.size(0), in = w.size(1), block = std::min(options.block, in);
  at::Tensor codes = at::empty({out, in}, w.options()),
             errors = at::empty({out, block}, w.options());
  const float low = -static_cast<float>(int64_t{1} << (grid.bits - 1));
  const Rows rows{w.data_ptr<float>(),
                  codes.data_ptr<float>(),
                  errors.data_ptr<float>(),
                  scale.const_data_ptr<float>(),
                  zero.defined() ? zero.const_data_ptr<float>() : nullptr,
                  upper.const_data_ptr<float>(),
                  forward.defined() ? forward.const_data_ptr<float>() : nullptr,
                  in,
                  block,
                  low,
                  -low - 1.0f,
                  grid.kind};
  const auto round = grid.is_integer() ? round_row<true> : round_row<false>;
  for (int64_t begin = 0; begin < in; begin += block) {
    leave_if_stopped("a layer was quantized");
    const int64_t end = std::min(begin + block, in), width = end - begin;
    at::parallel_for(0, out, 16, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) round(rows, row, begin, end);
    });
    if (end == in) break;
    at::Tensor tail = w.narrow(1, end, in - end);
    const auto right = [&](const at::Tensor& m) {
      return m.narrow(0, begin, width).narrow(1, end, in - end);
    };
    tail.sub_(at::mm(errors.narrow(1, 0, width), right(upper)));
    // Within the block w holds the numbers that were rounded.
    if (forward.defined()) tail.add_(at::mm(w.narrow(1, begin, width), right(forward)));
  }
  // 5. Put the codes back into the order of the weight's columns.
  at::Tensor in_place = at::empty_like(codes);
  in_place.index_copy_(1, p.order, codes);
  return {.quantized = with_codes(in_place, parameters, grid),
          .damping = factor.damping,
          .num_attempts = factor.num_attempts,
          .num_dead = p.num_dead};
}

QuantizedLinear gptq_reference(const at::Tensor& weight, const at::Tensor& hessian,
                               const WeightGrid& grid, const GptqOptions& options) {
  OSP_CHECK(options.correction == Correction::none, "the twin has no corrections");
  const GridParameters parameters = find_grid(weight, grid, "weight");
  const Problem p = prepare(weight, hessian, {}, options.act_order, "weight");
  at::Tensor damped = p.hessian.clone();
  damped.diagonal().add_(options.damping * damped.diagonal().mean().item<double>());
  const int64_t in = weight.size(1);
  const at::Tensor scale = per_column(parameters.effective(), p.order, grid.group);
  const at::Tensor zero =
      grid.symmetric ? at::zeros_like(scale) : per_column(parameters.zero, p.order, grid.group);
  at::Tensor w = p.weight.to(at::kDouble), codes = at::zeros_like(p.weight);
  for (int64_t i = 0; i < in; ++i) {
    // The inverse of the Hessian of the columns that are still free.
    const at::Tensor inverse = damped.narrow(0, i, in - i).narrow(1, i, in - i).inverse();
    const at::Tensor s = scale.select(1, i), z = zero.select(1, i);
    const at::Tensor x = w.select(1, i);
    const RoundedColumn rounded = rounded_column(x.to(at::kFloat), s, z, grid);
    const at::Tensor error = x.sub(rounded.values).div_(inverse.select(0, 0).select(0, 0));
    w.narrow(1, i, in - i).sub_(error.unsqueeze(1).mul(inverse.select(0, 0).unsqueeze(0)));
    codes.select(1, i).copy_(rounded.codes);
  }
  at::Tensor in_place = at::zeros_like(codes);
  in_place.index_copy_(1, p.order, codes);
  return with_codes(in_place, parameters, grid);
}

constexpr RoundingRow kGptq = {.name = "gptq",
                               .sentence = "errors are compensated in the columns that follow",
                               .hessian = HessianKind::quantized,
                               .round = round_by_gptq<Correction::none>};

constexpr RoundingRow kGptaq = {.name = "gptaq",
                                .sentence = "gptq that also corrects for changed inputs",
                                .hessian = HessianKind::quantized_and_difference,
                                .round = round_by_gptq<Correction::gptaq>};

constexpr RoundingRow kQronos = {
    .name = "qronos",
    .sentence = "gptq that starts from the least-squares weights for changed inputs",
    .hessian = HessianKind::quantized_and_difference,
    .always_act_order = true,
    .round = round_by_gptq<Correction::qronos>};

}  // namespace osp
