// The instruction set that the kernels use, decided once at run time.
//
// Tested by osp/ops/kernels_test.cpp and tests/python/test_interface.py.
#pragma once

#include <string>

#include "osp/ops/kernels.h"

namespace osp {

// `reference` is no instruction set: the operators' reference twins run instead of the kernels,
// which is what other devices than the CPU get.
enum class Isa { reference, portable, avx2, avx512, amx };

const char* isa_name(Isa isa);

// The best level that this CPU and operating system support.
Isa detect_isa();

// The level in use: detect_isa(), or the lower one that the environment variable OSP_ISA
// (reference, portable, avx2, avx512, amx) names. Error(usage) for an unknown name,
// Error(unsupported) for one that this CPU lacks.
Isa active_isa();

// True if the level in use is AVX-512 or above and the CPU has bf16 products.
bool has_avx512_bf16();

// True if the level in use is AVX-512 or above and the CPU has products of 8-bit integers (VNNI).
bool has_avx512_vnni();

// True if the level in use is AMX, the CPU has its products of 8-bit integers, and the kernel lets
// this process use the tile registers, for which this asks at the first call.
bool has_amx_int8();

// The one of three results that the active level uses; AMX machines use AVX-512 for row kernels.
template <class T>
T for_active_isa(T (*portable)(), T (*avx2)(), T (*avx512)()) {
  switch (active_isa()) {
    case Isa::reference:
    case Isa::portable:
      return portable();
    case Isa::avx2:
      return avx2();
    default:
      return avx512();
  }
}

// The table of row kernels of the active level.
const kernels::Kernels& active_kernels();

}  // namespace osp
