// Central moments of a stream of numbers, mergeable, and the two kurtoses that are made of them.
//
// Everything is held in fp64. A block is added by two passes over it (mean, then powers of the
// differences), blocks are joined by the pairwise update of Chan et al. and Pébay (2008), so the
// result hardly depends on how a stream was cut and never subtracts large raw powers.
#pragma once

#include <cstdint>
#include <span>

#include "osp/measure/moment_kernels.h"

namespace osp {

struct Moments {
  int64_t count = 0;
  double mean = 0.0;
  double m2 = 0.0;  // Σ (x − mean)²
  double m3 = 0.0;  // Σ (x − mean)³
  double m4 = 0.0;  // Σ (x − mean)⁴

  void add(std::span<const float> block);
  void merge(const Moments& other);

  double variance() const;            // population: m2 / count
  double standard_deviation() const;  // population
};

// Moments of one block, and its largest |x| that is not NaN: the same bits with every instruction
// set.
Moments moments_of(std::span<const float> block);
Moments moments_of(std::span<const float> block, float& largest);

// The sums behind it, of the instruction set in use.
const kernels::MomentKernels& moment_kernels();

// Naive twin: raw sums of powers in long double, one number at a time.
Moments moments_reference(std::span<const float> block);

// Ours: mean((x − μ)⁴) / σ⁴ − 3 with the population σ; 0 for a Gaussian, 3 for a Laplace law. NaN
// where all numbers are equal (no σ to compare with).
double excess_kurtosis(const Moments& moments);

// The reference's script: mean(x⁴) / s⁴ − 3, the numerator not centred, s with count − 1, and the
// result clipped at 0 from below. Never to be averaged with the other. NaN where s is 0.
double clipped_kurtosis(const Moments& moments);

}  // namespace osp
