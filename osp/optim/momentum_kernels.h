// Single passes over one matrix for Muon, on raw pointers (no tensor headers: the .cpp is compiled
// with its own flags, see cmake/folder.cmake). bf16 values are passed as their bits.
//
// Tested by muon_test.cpp and newton_schulz_test.cpp.
#pragma once

#include <cstdint>

namespace osp::momentum_kernels {

// buffer = g + beta · buffer; returns Σ u² of the update u = g + beta · buffer (Nesterov) or
// buffer. Sums of 1,024 squares are fp32 and added in double.
double accumulate(const float* g, float* buffer, int64_t count, float beta, bool nesterov);

// x = bf16(u / divisor) for the u of accumulate().
void normalise(const float* g, const float* buffer, uint16_t* x, int64_t count, float beta,
               bool nesterov, float divisor);

// w = keep · w − scale · x; returns the sum of the squared changes of w.
double apply(float* w, const uint16_t* x, int64_t count, float keep, float scale);

// Σ x².
double sum_of_squares(const float* x, int64_t count);
double sum_of_squares_bf16(const uint16_t* x, int64_t count);

}  // namespace osp::momentum_kernels
