#include "osp/measure/moments.h"

#include <cmath>
#include <limits>

#include "osp/ops/isa.h"

namespace osp {

const kernels::MomentKernels& moment_kernels() {
  static const kernels::MomentKernels& table = for_active_isa<const kernels::MomentKernels&>(
      kernels::moment_kernels_portable, kernels::moment_kernels_avx2,
      kernels::moment_kernels_avx512);
  return table;
}

Moments moments_of(std::span<const float> block) {
  float largest = 0.0f;
  return moments_of(block, largest);
}

Moments moments_of(std::span<const float> block, float& largest) {
  largest = 0.0f;
  if (block.empty()) return {};
  const auto count = static_cast<int64_t>(block.size());
  kernels::RowSums sums;
  moment_kernels().row_sums(block.data(), count, sums);
  largest = sums.largest;
  return {.count = count, .mean = sums.mean, .m2 = sums.m2, .m3 = sums.m3, .m4 = sums.m4};
}

Moments moments_reference(std::span<const float> block) {
  if (block.empty()) return {};
  long double s1 = 0, s2 = 0, s3 = 0, s4 = 0;
  for (const float value : block) {
    const long double x = value;
    s1 += x;
    s2 += x * x;
    s3 += x * x * x;
    s4 += x * x * x * x;
  }
  const long double n = block.size();
  const long double mean = s1 / n;
  Moments result;
  result.count = static_cast<int64_t>(block.size());
  result.mean = static_cast<double>(mean);
  result.m2 = static_cast<double>(s2 - n * mean * mean);
  result.m3 = static_cast<double>(s3 - 3 * mean * s2 + 2 * n * mean * mean * mean);
  result.m4 = static_cast<double>(s4 - 4 * mean * s3 + 6 * mean * mean * s2 -
                                  3 * n * mean * mean * mean * mean);
  return result;
}

void Moments::add(std::span<const float> block) { merge(moments_of(block)); }

void Moments::merge(const Moments& other) {
  if (other.count == 0) return;
  if (count == 0) {
    *this = other;
    return;
  }
  const double a = static_cast<double>(count), b = static_cast<double>(other.count);
  const double n = a + b;
  const double d = other.mean - mean;
  const double d_n = d / n;
  const double new_m4 = m4 + other.m4 + d * d_n * d_n * d_n * a * b * (a * a - a * b + b * b) +
                        6.0 * d_n * d_n * (a * a * other.m2 + b * b * m2) +
                        4.0 * d_n * (a * other.m3 - b * m3);
  const double new_m3 =
      m3 + other.m3 + d * d_n * d_n * a * b * (a - b) + 3.0 * d_n * (a * other.m2 - b * m2);
  mean += d_n * b;
  m2 += other.m2 + d * d_n * a * b;
  m3 = new_m3;
  m4 = new_m4;
  count += other.count;
}

double Moments::variance() const { return m2 / static_cast<double>(count); }

double Moments::standard_deviation() const { return std::sqrt(variance()); }

double excess_kurtosis(const Moments& moments) {
  const double n = static_cast<double>(moments.count);
  return n * moments.m4 / (moments.m2 * moments.m2) - 3.0;
}

double clipped_kurtosis(const Moments& moments) {
  const double n = static_cast<double>(moments.count);
  const double mu = moments.mean;
  const double fourth_power =
      (moments.m4 + 4.0 * mu * moments.m3 + 6.0 * mu * mu * moments.m2) / n + mu * mu * mu * mu;
  const double s2 = moments.m2 / (n - 1.0);
  if (s2 == 0.0) return std::numeric_limits<double>::quiet_NaN();
  const double value = fourth_power / (s2 * s2) - 3.0;
  return value < 0.0 ? 0.0 : value;  // keeps NaN
}

}  // namespace osp
