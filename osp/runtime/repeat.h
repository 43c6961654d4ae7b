// f<0>(), … f<N − 1>() with constant indices: with these a compiler keeps an array of accumulators
// in registers. A loop that it unrolls later may leave them on the stack (g++ 12), at half the
// speed. For the kernels of single instruction sets, which may not include the standard library.
//
// Tested by code_products_test.cpp and tests/python/test_inner_loops.py.
#pragma once

namespace osp::kernels {

template <int N, int I = 0, class Body>
inline __attribute__((always_inline)) void repeat(const Body& body) {
  if constexpr (I < N) {
    body.template operator()<I>();
    repeat<N, I + 1>(body);
  }
}

}  // namespace osp::kernels
