#include "osp/optim/momentum_kernels.h"

#include "osp/ops/bf16_bits.h"

namespace osp::momentum_kernels {
namespace {

constexpr int64_t kBlock = 1024;

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
    for (int64_t i = 0; i < count; ++i)
      x[i] = kernels::float_to_bf16((g[i] + beta * buffer[i]) / divisor);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) x[i] = kernels::float_to_bf16(buffer[i] / divisor);
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
      const float moved = keep * w[i] - scale * kernels::bf16_to_float(x[i]);
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
    for (int64_t i = begin; i < end; ++i)
      sum += kernels::bf16_to_float(x[i]) * kernels::bf16_to_float(x[i]);
    total += static_cast<double>(sum);
  }
  return total;
}

}  // namespace osp::momentum_kernels
