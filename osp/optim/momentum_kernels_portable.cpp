#include "osp/optim/momentum_kernels.h"

namespace osp::momentum_kernels {
namespace {

constexpr int64_t kBlock = 1024;

inline float from_bf16(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

// Round to nearest even; NaN stays NaN.
inline uint16_t to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

}  // namespace

double accumulate(const float* __restrict g, float* __restrict buffer, int64_t count, float beta,
                  bool nesterov) {
  const float look = nesterov ? beta : 0;
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const float b = g[i] + beta * buffer[i];
      buffer[i] = b;
      const float u = nesterov ? g[i] + look * b : b;
      sum += u * u;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

void normalise(const float* __restrict g, const float* __restrict buffer, uint16_t* __restrict x,
               int64_t count, float beta, bool nesterov, float divisor) {
  if (nesterov) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) x[i] = to_bf16((g[i] + beta * buffer[i]) / divisor);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) x[i] = to_bf16(buffer[i] / divisor);
  }
}

double apply(float* __restrict w, const uint16_t* __restrict x, int64_t count, float keep,
             float scale) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      const float moved = keep * w[i] - scale * from_bf16(x[i]);
      const float change = moved - w[i];
      w[i] = moved;
      sum += change * change;
    }
    total += static_cast<double>(sum);
  }
  return total;
}

double sum_of_squares(const float* x, int64_t count) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += x[i] * x[i];
    total += static_cast<double>(sum);
  }
  return total;
}

double sum_of_squares_bf16(const uint16_t* x, int64_t count) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t end = begin + kBlock < count ? begin + kBlock : count;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) sum += from_bf16(x[i]) * from_bf16(x[i]);
    total += static_cast<double>(sum);
  }
  return total;
}

}  // namespace osp::momentum_kernels
