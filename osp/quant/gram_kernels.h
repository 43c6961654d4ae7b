// Kernels of gram.cpp on raw memory; nothing but this header may be included where they are
// compiled for one instruction set.
#pragma once

#include <cstdint>

namespace osp::gram_kernels {

inline constexpr int64_t kPanel = 32;  // columns that are packed together

// Columns [32 p, 32 p + 32) of `count` rows of k bf16 numbers as pairs of rows:
// out[pair][column] = row 2 pair | row 2 pair + 1 << 16, zeros beyond the last row and column.
inline void pack_panel(const uint16_t* rows, int64_t count, int64_t k, int64_t p, uint32_t* out) {
  const int64_t begin = p * kPanel, width = k - begin < kPanel ? k - begin : kPanel;
  for (int64_t pair = 0; pair < (count + 1) / 2; ++pair, out += kPanel) {
    const uint16_t* const low = rows + 2 * pair * k + begin;
    const uint16_t* const high = low + k;
    const bool both = 2 * pair + 1 < count;
    for (int64_t c = 0; c < width; ++c) {
      out[c] = low[c] | (both ? static_cast<uint32_t>(high[c]) << 16 : 0u);
    }
    for (int64_t c = width; c < kPanel; ++c) out[c] = 0;
  }
}

// sums[32 i + r][32 j + c] += Σ over pairs of a[pair][r] · b[pair][c], both products of a pair;
// sums is [k, k].
void add_panels_avx512bf16(const uint32_t* a, const uint32_t* b, int64_t pairs, int64_t k,
                           int64_t i, int64_t j, float* sums);

}  // namespace osp::gram_kernels
