#include <immintrin.h>

#include "osp/quant/gram_kernels.h"

namespace osp::gram_kernels {
namespace {

constexpr int kRows = 8;        // of a register tile
constexpr int kVectors = 2;     // of 16 columns
constexpr int64_t kPairs = 96;  // of two panels that the first cache holds
static_assert(kVectors * 16 == kPanel && kPanel % kRows == 0);

inline __m512bh as_pairs(__m512i words) { return (__m512bh)words; }

}  // namespace

void add_panels_avx512bf16(const uint32_t* a, const uint32_t* b, int64_t pairs, int64_t k,
                           int64_t i, int64_t j, float* sums) {
  const int64_t rows = k - i * kPanel < kPanel ? k - i * kPanel : kPanel;
  const int64_t columns = k - j * kPanel;
  alignas(64) float tile[kPanel][kPanel] = {};
  for (int64_t begin = 0; begin < pairs; begin += kPairs) {
    const int64_t end = pairs - begin < kPairs ? pairs : begin + kPairs;
    for (int64_t first = 0; first < kPanel; first += kRows) {
      __m512 sum[kRows][kVectors];
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_load_ps(&tile[first + r][16 * v]);
      }
      for (int64_t pair = begin; pair < end; ++pair) {
        const uint32_t* const x = a + pair * kPanel + first;
        __m512bh y[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          y[v] = as_pairs(_mm512_loadu_si512(b + pair * kPanel + 16 * v));
        }
        for (int r = 0; r < kRows; ++r) {
          const __m512bh all = as_pairs(_mm512_set1_epi32(static_cast<int>(x[r])));
          for (int v = 0; v < kVectors; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], all, y[v]);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) _mm512_store_ps(&tile[first + r][16 * v], sum[r][v]);
      }
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    float* const out = sums + (i * kPanel + r) * k + j * kPanel;
    const int64_t width = columns < kPanel ? columns : kPanel;
    for (int64_t c = 0; c < width; ++c) out[c] += tile[r][c];
  }
}

}  // namespace osp::gram_kernels
