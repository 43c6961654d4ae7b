#include "osp/ops/isa.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr const char* kIsaNames[] = {"reference", "portable", "avx2", "avx512", "amx"};

Isa resolve_isa() {
  const Isa best = detect_isa();
  const char* wanted = std::getenv("OSP_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (int level = 0; level < 5; ++level) {
    if (std::strcmp(wanted, kIsaNames[level]) != 0) continue;
    if (level > static_cast<int>(best)) {
      fail(ErrorCode::unsupported, "OSP_ISA={}: this CPU supports {} at most", wanted,
           isa_name(best));
    }
    return static_cast<Isa>(level);
  }
  fail(ErrorCode::usage, "OSP_ISA={}: expected reference, portable, avx2, avx512 or amx", wanted);
}

}  // namespace

const char* isa_name(Isa isa) { return kIsaNames[static_cast<int>(isa)]; }

Isa detect_isa() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  const bool amx = avx512 && (edx >> 22 & 1) != 0 && (edx >> 24 & 1) != 0;  // AMX-BF16, AMX-TILE
  return amx ? Isa::amx : avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::portable;
}

Isa active_isa() {
  static const Isa isa = resolve_isa();
  return isa;
}

bool has_avx512_bf16() {
  unsigned eax = 7, ebx = 0, ecx = 1, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return active_isa() >= Isa::avx512 && (eax >> 5 & 1) != 0;
}

bool has_avx512_vnni() {
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return active_isa() >= Isa::avx512 && (ecx >> 11 & 1) != 0;
}

bool has_amx_int8() {
  static const bool usable = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
    unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return active_isa() == Isa::amx && (edx >> 25 & 1) != 0 &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return usable;
}

const kernels::Kernels& active_kernels() {
  static const kernels::Kernels& table = for_active_isa<const kernels::Kernels&>(
      kernels::row_kernels_portable, kernels::row_kernels_avx2, kernels::row_kernels_avx512);
  return table;
}

}  // namespace osp
