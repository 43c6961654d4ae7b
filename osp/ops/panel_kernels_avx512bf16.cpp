#include "osp/ops/panel_kernels.h"

// GCC 12's intrinsics initialise what they leave undefined by itself and are then warned of.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

namespace osp::panel_kernels {
namespace {

constexpr int kRows = 8;        // rows of a register tile
constexpr int kVectors = 2;     // vectors of 16 columns, per row of a register tile
constexpr int64_t kPairs = 96;  // pairs of two panels that the first cache holds
static_assert(kVectors * 16 == kPanel && kPanel % kRows == 0 && kBlock == 4);

inline __m512bh as_pairs(__m512i words) { return (__m512bh)words; }

// The first and the second of the two bf16 numbers in each word, as fp32.
inline __m512 first_of(__m512i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }
inline __m512 second_of(__m512i words) {
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-65536)));
}

inline __m512i join(__m512 first, __m512 second) {
  const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
  const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Words w[row][column] of 16 rows, each of 16, to w[column][row].
inline void transpose_words(__m512i (&w)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(w[i], w[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(w[i], w[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    w[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    w[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    w[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    w[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // w[4 q + c] has in quarter k the words of column 4 k + c, rows 4 q … 4 q + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(w[c], w[4 + c], 0x88);      // quarters 0, 2
    const __m512i low_odd = _mm512_shuffle_i32x4(w[c], w[4 + c], 0xdd);  // 1, 3
    const __m512i high = _mm512_shuffle_i32x4(w[8 + c], w[12 + c], 0x88);
    const __m512i high_odd = _mm512_shuffle_i32x4(w[8 + c], w[12 + c], 0xdd);
    t[c] = _mm512_shuffle_i32x4(low, high, 0x88);
    t[8 + c] = _mm512_shuffle_i32x4(low, high, 0xdd);
    t[4 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd);
  }
  for (int i = 0; i < 16; ++i) w[i] = t[i];
}

// tile (+)= the products of `pairs` pairs of two panels. Meanwhile fetches the first 64 · pairs
// bytes from `soon` on, which may lie behind the end of a matrix.
template <bool accumulate>
void multiply_pairs(const uint32_t* a, const uint32_t* b, int64_t pairs, const uint32_t* soon,
                    float* tile) {
  for (int64_t first = 0; first < kPanel; first += kRows) {
    __m512 sum[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] =
            accumulate ? _mm512_load_ps(tile + (first + r) * kPanel + 16 * v) : _mm512_setzero_ps();
      }
    }
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const uint32_t* const x = a + pair * kPanel + first;
      if (first == 0) _mm_prefetch(reinterpret_cast<const char*>(soon + 16 * pair), _MM_HINT_T1);
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
      for (int v = 0; v < kVectors; ++v) {
        _mm512_store_ps(tile + (first + r) * kPanel + 16 * v, sum[r][v]);
      }
    }
  }
}

// The number of rows or columns of the last panel that exist.
inline int64_t width_of(int64_t count, int64_t p) {
  const int64_t left = count - p * kPanel;
  return left < kPanel ? left : kPanel;
}

}  // namespace

void pack_panel_avx512bf16(const uint16_t* matrix, int64_t rows, int64_t cols, int64_t stride,
                           int64_t p, int64_t pairs, uint32_t* panel) {
  const int64_t width = width_of(cols, p);
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << width) - 1);
  for (int64_t pair = 0; pair < pairs; ++pair, panel += kPanel) {
    const uint16_t* const from = matrix + 2 * pair * stride + p * kPanel;
    const __m512i low =
        2 * pair < rows ? _mm512_maskz_loadu_epi16(mask, from) : _mm512_setzero_si512();
    const __m512i high = 2 * pair + 1 < rows ? _mm512_maskz_loadu_epi16(mask, from + stride)
                                             : _mm512_setzero_si512();
    for (int v = 0; v < kVectors; ++v) {
      const __m512i x = _mm512_cvtepu16_epi32(v == 0 ? _mm512_castsi512_si256(low)
                                                     : _mm512_extracti64x4_epi64(low, 1));
      const __m512i y = _mm512_cvtepu16_epi32(v == 0 ? _mm512_castsi512_si256(high)
                                                     : _mm512_extracti64x4_epi64(high, 1));
      _mm512_storeu_si512(panel + 16 * v, _mm512_or_si512(x, _mm512_slli_epi32(y, 16)));
    }
  }
}

void pack_transposed_panel_avx512bf16(const uint16_t* matrix, int64_t rows, int64_t cols,
                                      int64_t stride, int64_t p, int64_t pairs, uint32_t* panel) {
  const int64_t width = width_of(rows, p);
  for (int64_t begin = 0; begin < pairs; begin += 16) {
    const int64_t numbers = cols - 2 * begin < 32 ? cols - 2 * begin : 32;
    const __mmask32 mask = numbers <= 0 ? 0 : static_cast<__mmask32>((uint64_t{1} << numbers) - 1);
    const int64_t count = pairs - begin < 16 ? pairs - begin : 16;
    for (int v = 0; v < kVectors; ++v) {
      __m512i words[16];
      for (int r = 0; r < 16; ++r) {
        const int64_t row = 16 * v + r;
        words[r] = row < width ? _mm512_maskz_loadu_epi16(
                                     mask, matrix + (p * kPanel + row) * stride + 2 * begin)
                               : _mm512_setzero_si512();
      }
      transpose_words(words);
      for (int64_t q = 0; q < count; ++q) {
        _mm512_storeu_si512(panel + (begin + q) * kPanel + 16 * v, words[q]);
      }
    }
  }
}

void unpack_panel_avx512bf16(const uint32_t* panel, int64_t rows, int64_t cols, int64_t p,
                             uint16_t* matrix) {
  const int64_t width = width_of(cols, p);
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << width) - 1);
  for (int64_t r = 0; r < rows; ++r) {
    const uint32_t* const from = panel + r / 2 * kPanel;
    __m512i x = _mm512_loadu_si512(from), y = _mm512_loadu_si512(from + 16);
    if (r % 2 == 1) {
      x = _mm512_srli_epi32(x, 16);
      y = _mm512_srli_epi32(y, 16);
    }
    const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(x)),
                                            _mm512_cvtepi32_epi16(y), 1);
    _mm512_mask_storeu_epi16(matrix + r * cols + p * kPanel, mask, both);
  }
}

void unpack_transposed_panel_avx512bf16(const uint32_t* panel, int64_t rows, int64_t cols,
                                        int64_t p, uint16_t* matrix) {
  const int64_t width = width_of(rows, p);
  for (int64_t begin = 0; 2 * begin < cols; begin += 16) {
    const int64_t numbers = cols - 2 * begin < 32 ? cols - 2 * begin : 32;
    const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << numbers) - 1);
    for (int v = 0; v < kVectors; ++v) {
      __m512i words[16];
      for (int64_t q = 0; q < 16; ++q) {
        words[q] = 2 * (begin + q) < cols
                       ? _mm512_loadu_si512(panel + (begin + q) * kPanel + 16 * v)
                       : _mm512_setzero_si512();
      }
      transpose_words(words);
      for (int64_t r = 0; r < 16 && 16 * v + r < width; ++r) {
        uint16_t* const row = matrix + (p * kPanel + 16 * v + r) * cols;
        _mm512_mask_storeu_epi16(row + 2 * begin, mask, words[r]);
      }
    }
  }
}

void multiply_panels_avx512bf16(const uint32_t* a, int64_t a_stride, int64_t num_a,
                                const uint32_t* b, int64_t b_stride, int64_t num_b, int64_t pairs,
                                bool lower, float* tiles) {
  for (int64_t begin = 0; begin < pairs; begin += kPairs) {
    const int64_t count = pairs - begin < kPairs ? pairs - begin : kPairs;
    for (int64_t i = 0; i < num_a; ++i) {
      for (int64_t j = 0; j < (lower ? i + 1 : num_b); ++j) {
        const uint32_t* const x = a + i * a_stride + begin * kPanel;
        const uint32_t* const y = b + j * b_stride + begin * kPanel;
        float* const tile = tiles + (i * kBlock + j) * kTile;
        // The next part of the panels, one half of a panel's with each tile.
        const int64_t turn = i * kBlock + j, panel = turn / 2 % kBlock;
        const uint32_t* const soon =
            (turn < 2 * kBlock ? a + panel * a_stride : b + panel * b_stride) +
            (begin + kPairs) * kPanel + turn % 2 * kPairs * kPanel / 2;
        if (begin == 0) {
          multiply_pairs<false>(x, y, count, soon, tile);
        } else {
          multiply_pairs<true>(x, y, count, soon, tile);
        }
      }
    }
  }
}

void store_tile_avx512bf16(const float* tile, float factor, Term x, Term y, uint32_t* out,
                           uint32_t* transposed) {
  const __m512 alpha = _mm512_set1_ps(factor);
  const Term terms[] = {x, y};
  // factor · tile + x + y, rounded.
  __m512i words[kTileWords / 16];  // word 2 pair + v: columns 16 v … 16 v + 15
  for (int64_t i = 0; i < kTileWords / 16; ++i) {
    const float* const row = tile + i / 2 * 2 * kPanel + i % 2 * 16;
    __m512 first = _mm512_mul_ps(alpha, _mm512_loadu_ps(row));
    __m512 second = _mm512_mul_ps(alpha, _mm512_loadu_ps(row + kPanel));
    for (const Term& term : terms) {
      if (term.words == nullptr) continue;
      const __m512i old = _mm512_loadu_si512(term.words + 16 * i);
      const __m512 beta = _mm512_set1_ps(term.factor);
      first = _mm512_fmadd_ps(beta, first_of(old), first);
      second = _mm512_fmadd_ps(beta, second_of(old), second);
    }
    words[i] = join(first, second);
  }
  if (out != nullptr) {
    for (int64_t i = 0; i < kTileWords / 16; ++i) _mm512_storeu_si512(out + 16 * i, words[i]);
  }
  if (transposed == nullptr) return;
  // The transpose's pair q has in column r the numbers [r][2 q] and [r][2 q + 1]: the word q of row
  // r as it lies in a row-major matrix.
  alignas(64) uint32_t rows[kPanel][16];
  for (int64_t pair = 0; pair < kPanel / 2; ++pair) {
    const __m512i left = words[2 * pair], right = words[2 * pair + 1];
    const __m512i first = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(left)),
                                             _mm512_cvtepi32_epi16(right), 1);
    const __m512i second = _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(left, 16))),
        _mm512_cvtepi32_epi16(_mm512_srli_epi32(right, 16)), 1);
    _mm512_store_si512(rows[2 * pair], first);
    _mm512_store_si512(rows[2 * pair + 1], second);
  }
  // Turn each square of 16 × 16 words and store its rows.
  for (int v = 0; v < kVectors; ++v) {
    __m512i square[16];
    for (int r = 0; r < 16; ++r) square[r] = _mm512_load_si512(rows[16 * v + r]);
    transpose_words(square);
    for (int q = 0; q < 16; ++q) _mm512_storeu_si512(transposed + q * kPanel + 16 * v, square[q]);
  }
}

void combine_avx512bf16(uint32_t* x, float factor_x, const uint32_t* y, float factor_y,
                        int64_t count) {
  const __m512 alpha = _mm512_set1_ps(factor_x), beta = _mm512_set1_ps(factor_y);
  for (int64_t i = 0; i < count; i += 16) {
    const __m512i p = _mm512_loadu_si512(x + i), q = _mm512_loadu_si512(y + i);
    const __m512 first = _mm512_fmadd_ps(alpha, first_of(p), _mm512_mul_ps(beta, first_of(q)));
    const __m512 second = _mm512_fmadd_ps(alpha, second_of(p), _mm512_mul_ps(beta, second_of(q)));
    _mm512_storeu_si512(x + i, join(first, second));
  }
}

}  // namespace osp::panel_kernels
