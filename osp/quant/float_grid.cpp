#include "osp/quant/float_grid.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/e2m1.h"
#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"
#include "osp/quant/float_grid_kernels.h"

namespace osp {
namespace {

constexpr float kLargestE2m1 = 6.0f, kLargestE4m3 = 448.0f;
constexpr int64_t kNumbersPerTask = 1 << 14;

kernels::FloatGridKernels active_float_grid() {
  return for_active_isa(kernels::float_grid_portable, kernels::float_grid_avx2,
                        kernels::float_grid_avx512);
}

// For one number at a time.
const kernels::FloatGridKernels& portable_float_grid() {
  static const kernels::FloatGridKernels table = kernels::float_grid_portable();
  return table;
}

void check_float(NumberKind kind) {
  OSP_CHECK(kind != NumberKind::integer, "integers have no floating-point grid");
}

// Calls visit(row) for all rows, side by side.
template <class Visit>
void for_rows(int64_t rows, int64_t columns, const Visit& visit) {
  const int64_t at_once = std::max<int64_t>(1, kNumbersPerTask / std::max<int64_t>(1, columns));
  for_each_task((rows + at_once - 1) / at_once, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * at_once);
    for (int64_t row = task * at_once; row < end; ++row) visit(row);
  });
}

int64_t blocks_of(NumberKind kind, int64_t columns) {
  const int64_t block = block_size(kind);
  OSP_CHECK(block == 0 || columns % block == 0, "blocks of {} in rows of {}", block, columns);
  return block == 0 ? 1 : columns / block;
}

// Stored scales of one row.
void scales_of_row(const kernels::FloatGridKernels& k, const float* x, int64_t columns,
                   NumberKind kind, float global, float* scale) {
  switch (kind) {
    case NumberKind::mxfp4:
      return k.mx_scales(x, columns / 32, scale);
    case NumberKind::nvfp4:
      return k.nv_scales(x, columns / 16, global, scale);
    case NumberKind::fp8:
      *scale = float_constant(k.absmax(x, columns), kind);
      return;
    case NumberKind::integer:
      break;
  }
  OSP_CHECK(false, "integers have no floating-point grid");
}

// x / scale rounded, and multiplied by the scale again if `scaled`.
void round_row(const kernels::FloatGridKernels& k, const float* x, int64_t columns, NumberKind kind,
               const float* scale, bool scaled, float* out) {
  const int64_t blocks = blocks_of(kind, columns);
  const auto round = kind == NumberKind::fp8 ? k.round_e4m3 : k.round_e2m1;
  round(x, blocks, columns / std::max<int64_t>(1, blocks), scale, scaled, out);
}

at::Tensor fake_quantize_rows(const at::Tensor& x, NumberKind kind, std::optional<float> constant) {
  check_float(kind);
  const int64_t columns = x.size(-1), blocks = blocks_of(kind, columns);
  const at::Tensor from = x.detach().to(at::kFloat).contiguous();
  at::Tensor out = at::empty_like(from);
  if (from.numel() == 0) return out.to(x.scalar_type());
  const float* const source = from.const_data_ptr<float>();
  float* const target = out.data_ptr<float>();
  const kernels::FloatGridKernels k = active_float_grid();
  for_rows(from.numel() / columns, columns, [&](int64_t row) {
    const float* const numbers = source + row * columns;
    std::vector<float> scale(static_cast<size_t>(blocks));
    if (kind == NumberKind::fp8 && constant) {
      scale[0] = *constant;
    } else {
      const float global = kind != NumberKind::nvfp4 ? 1.0f
                           : constant                ? *constant
                                      : float_constant(k.absmax(numbers, columns), kind);
      scales_of_row(k, numbers, columns, kind, global, scale.data());
      if (kind == NumberKind::nvfp4) {
        for (float& s : scale) s /= global;
      }
    }
    round_row(k, numbers, columns, kind, scale.data(), true, target + row * columns);
  });
  return out.to(x.scalar_type());
}

}  // namespace

int64_t block_size(NumberKind kind) {
  switch (kind) {
    case NumberKind::mxfp4:
      return 32;
    case NumberKind::nvfp4:
      return 16;
    case NumberKind::fp8:
    case NumberKind::integer:
      return 0;
  }
  OSP_CHECK(false, "unknown kind of numbers {}", static_cast<int>(kind));
}

float float_constant(float absmax, NumberKind kind) {
  if (kind == NumberKind::fp8) {
    const float scale = absmax / kLargestE4m3;
    return scale == 0.0f ? std::numeric_limits<float>::epsilon() : scale;
  }
  OSP_CHECK(kind == NumberKind::nvfp4, "{} has no constant", number_kind_name(kind));
  // A product with the inverse, as compressed-tensors has it.
  const float inverse = 1.0f / std::max(std::numeric_limits<float>::min(), absmax);
  const float global = inverse * (kLargestE4m3 * kLargestE2m1);
  return std::isfinite(global) ? global : 1.0f;
}

at::Tensor FloatScales::effective() const { return global.defined() ? scale.div(global) : scale; }

FloatScales float_scales(const at::Tensor& x, NumberKind kind, float shared_largest) {
  check_float(kind);
  OSP_CHECK(x.dim() == 2 && x.scalar_type() == at::kFloat, "a matrix in fp32 expected");
  const at::Tensor from = x.contiguous();
  const int64_t columns = x.size(1), blocks = blocks_of(kind, columns);
  FloatScales result{.scale = at::empty({x.size(0), blocks}, at::kFloat), .global = {}};
  const float* const source = from.const_data_ptr<float>();
  float* const target = result.scale.data_ptr<float>();
  const kernels::FloatGridKernels k = active_float_grid();
  float global = 1.0f;
  if (kind == NumberKind::nvfp4) {
    global = float_constant(std::max(shared_largest, k.absmax(source, from.numel())), kind);
    result.global = at::full({1}, global, at::kFloat);
  }
  for_rows(x.size(0), columns, [&](int64_t row) {
    scales_of_row(k, source + row * columns, columns, kind, global, target + row * blocks);
  });
  return result;
}

at::Tensor float_values(const at::Tensor& x, NumberKind kind, const at::Tensor& effective) {
  check_float(kind);
  const int64_t columns = x.size(1), blocks = blocks_of(kind, columns);
  OSP_CHECK(effective.dim() == 2 && effective.size(0) == x.size(0) && effective.size(1) == blocks,
            "scales of [{}, {}] expected", x.size(0), blocks);
  const at::Tensor from = x.contiguous(), scale = effective.contiguous();
  at::Tensor out = at::empty_like(from);
  const float* const source = from.const_data_ptr<float>();
  const float* const scales = scale.const_data_ptr<float>();
  float* const target = out.data_ptr<float>();
  const kernels::FloatGridKernels k = active_float_grid();
  for_rows(x.size(0), columns, [&](int64_t row) {
    round_row(k, source + row * columns, columns, kind, scales + row * blocks, false,
              target + row * columns);
  });
  return out;
}

at::Tensor codes_of_values(const at::Tensor& values, NumberKind kind) {
  check_float(kind);
  if (kind == NumberKind::fp8) return values.to(at::kFloat8_e4m3fn).view(at::kChar);
  const at::Tensor from = values.contiguous();
  at::Tensor codes = at::empty(from.sizes(), at::kChar);
  const float* const c = from.const_data_ptr<float>();
  auto* const out = codes.data_ptr<int8_t>();
  for (int64_t i = 0; i < from.numel(); ++i) {
    const auto index =
        std::lower_bound(kE2m1.begin(), kE2m1.end(), std::fabs(c[i])) - kE2m1.begin();
    out[i] = static_cast<int8_t>(index | (std::signbit(c[i]) ? 8 : 0));
  }
  return codes;
}

at::Tensor values_of_codes(const at::Tensor& codes, NumberKind kind) {
  check_float(kind);
  if (kind == NumberKind::fp8) return codes.contiguous().view(at::kFloat8_e4m3fn).to(at::kFloat);
  const at::Tensor from = codes.contiguous();
  at::Tensor values = at::empty(from.sizes(), at::kFloat);
  const auto* const c = from.const_data_ptr<int8_t>();
  float* const out = values.data_ptr<float>();
  for (int64_t i = 0; i < from.numel(); ++i) {
    const float magnitude = kE2m1[static_cast<size_t>(c[i] & 7)];
    out[i] = (c[i] & 8) != 0 ? -magnitude : magnitude;
  }
  return values;
}

at::Tensor e8m0_of_scales(const at::Tensor& scale) {
  return scale.contiguous().view(at::kInt).bitwise_right_shift(23).to(at::kByte);
}

at::Tensor scales_of_e8m0(const at::Tensor& bytes) {
  const at::Tensor field = bytes.to(at::kInt);
  // 2^−127 lies below the normal numbers.
  const at::Tensor bits = field.bitwise_left_shift(23).masked_fill(field.eq(0), 0x00400000);
  return bits.view(at::kFloat);
}

at::Tensor fake_quantize_float(const at::Tensor& x, NumberKind kind) {
  return fake_quantize_rows(x, kind, std::nullopt);
}

at::Tensor fake_quantize_float(const at::Tensor& x, NumberKind kind, float constant) {
  OSP_CHECK(kind != NumberKind::mxfp4, "MXFP4 has no constant that rows share");
  return fake_quantize_rows(x, kind, constant);
}

RoundedFloat round_float(float x, float effective, NumberKind kind) {
  const kernels::FloatGridKernels& k = portable_float_grid();
  float value = 0.0f;
  (kind == NumberKind::fp8 ? k.round_e4m3 : k.round_e2m1)(&x, 1, 1, &effective, false, &value);
  const float product = value * effective;
  return {value, kind == NumberKind::nvfp4 ? static_cast<float>(c10::BFloat16(product)) : product};
}

float round_to_e2m1_reference(float x) {
  if (std::isnan(x)) return x;
  const float a = std::min(std::fabs(x), kLargestE2m1);
  // The nearest number; of two that are equally near the one with an even code.
  size_t best = 0;
  for (size_t i = 1; i < kE2m1.size(); ++i) {
    const float now = std::fabs(kE2m1[i] - a), before = std::fabs(kE2m1[best] - a);
    if (now < before || (now == before && i % 2 == 0)) best = i;
  }
  return x < 0.0f ? -kE2m1[best] : kE2m1[best];
}

float round_to_e4m3_reference(float x) {
  if (std::isnan(x)) return x;
  const float a = std::min(std::fabs(x), kLargestE4m3);
  const int exponent = a == 0.0f ? -6 : std::max(-6, std::ilogb(a));
  const float step = std::ldexp(1.0f, exponent - 3);
  return std::copysign(std::nearbyint(a / step) * step, x);
}

void fake_quantize_float_reference(std::span<float> row, NumberKind kind) {
  const auto absmax_of = [](std::span<const float> numbers) {
    float most = 0.0f;
    for (const float x : numbers) most = std::max(most, std::fabs(x));
    return most;
  };
  const size_t block = kind == NumberKind::fp8 ? row.size() : static_cast<size_t>(block_size(kind));
  const float global = kind == NumberKind::nvfp4 ? float_constant(absmax_of(row), kind) : 1.0f;
  for (size_t begin = 0; begin < row.size(); begin += block) {
    const std::span<float> numbers = row.subspan(begin, block);
    const float most = absmax_of(numbers);
    float scale = 0.0f;
    if (kind == NumberKind::fp8) {
      scale = float_constant(most, kind);
    } else if (kind == NumberKind::nvfp4) {
      const float rounded = round_to_e4m3_reference(global * (most / kLargestE2m1));
      scale = (rounded == 0.0f ? 0.125f : rounded) / global;
    } else {
      int exponent = most == 0.0f ? -127 : std::ilogb(most);
      if (most >= std::ldexp(1.75f, exponent)) ++exponent;
      scale = std::ldexp(1.0f, std::max(-127, exponent - 2));
    }
    for (float& x : numbers) {
      x = (kind == NumberKind::fp8 ? round_to_e4m3_reference(x / scale)
                                   : round_to_e2m1_reference(x / scale)) *
          scale;
    }
  }
}

}  // namespace osp
