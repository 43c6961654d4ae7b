// The numbers of E2M1, the four-bit floating-point type of MXFP4 and NVFP4 (Open Compute Project,
// microscaling formats 1.0): two exponent bits, one bit of mantissa, and the sign in bit 3.
//
// Tested by osp/quant/float_grid_test.cpp and tests/python/test_gguf.py.
#pragma once

#include <array>

namespace osp {

// By the three lower bits of a code.
inline constexpr std::array<float, 8> kE2m1 = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

}  // namespace osp
