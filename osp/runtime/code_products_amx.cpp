// The tiles of code_products.h with AMX: TDPBSUD makes 16 × 16 sums of 64 products of signed with
// unsigned bytes.
#include "osp/runtime/code_products.h"
#include "osp/runtime/wide_tiles.h"

namespace osp::kernels {
namespace {

// The instructions themselves: the compiler's intrinsics take the register's number as text, not as
// a constant, and do not say that loads read memory, so that stores before them could be delayed.
struct AmxTiles {
  static void configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  static void release() { __asm__ volatile("tilerelease" : : : "memory"); }
  template <int t>
  static void load(const void* memory, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2"
                     :
                     : "r"(memory), "r"(stride), "i"(t)
                     : "memory");
  }
  template <int t>
  static void store(void* memory, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)"
                     :
                     : "r"(memory), "r"(stride), "i"(t)
                     : "memory");
  }
  template <int t>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(t));
  }
  template <int c, int a, int b>
  static void multiply() {
    __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }
};

}  // namespace

const CodeProducts& code_products_amx() {
  static const CodeProducts table =
      with_wide_tiles<AmxTiles>(code_products_avx512vnni(), "amx-int8");
  return table;
}

}  // namespace osp::kernels
