// The tiles of code_products.h with vpdpbusd: four products and their sum in one instruction, into
// 16 sums of 32 bits. The accumulators of a tile of 8 rows and 3 panels fill 24 of 32 registers;
// codes are unpacked in registers by two ANDs and a shift for each line.
#include <immintrin.h>

#include "osp/runtime/code_products.h"

namespace osp::kernels {
namespace {

// Bytes that are fetched ahead of a line: where few rows stream one panel, some lines, which reach
// into the next panel; where several panels lie side by side, the same line of the next ones.
template <int P>
constexpr int64_t ahead(int64_t stride) {
  return P == 1 ? 64 * kLineBytes : P * stride;
}

inline __m512i quad(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return _mm512_set1_epi32(four);
}

// Keeps an accumulator in its register: g++ 12 would move some to the stack.
inline void pin(__m512i& x) { __asm__("" : "+v"(x)); }

template <int R, int P>
void store(const __m512i (&sum)[R][P], int32_t* out) {
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      _mm512_storeu_si512(out + (r * P + p) * kPanelOutputs, sum[r][p]);
    }
  }
}

template <int R, int P>
void nibble_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int,
                 int32_t* out) {
  const __m512i mask = _mm512_set1_epi8(15);
  __m512i sum[R][P];
#pragma GCC unroll 24
  for (int i = 0; i < R * P; ++i) sum[i / P][i % P] = _mm512_setzero_si512();
  for (int64_t i = 0; i < lines; ++i) {
    __m512i low[P], high[P];
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) {
      const uint8_t* line = panels + p * stride + i * kLineBytes;
      const __m512i both = _mm512_loadu_si512(line);
      _mm_prefetch(reinterpret_cast<const char*>(line + ahead<P>(stride)), _MM_HINT_T0);
      low[p] = _mm512_and_si512(both, mask);
      high[p] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i first = quad(a + i * 8 * R + 4 * r), second = quad(a + i * 8 * R + 4 * (R + r));
#pragma GCC unroll 3
      for (int p = 0; p < P; ++p) {
        sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], low[p], first);
        sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], high[p], second);
        pin(sum[r][p]);
      }
    }
  }
  store<R, P>(sum, out);
}

// One row and one panel: four chains of sums, so that none waits for its last product.
template <>
void nibble_tile<1, 1>(const int8_t* a, const uint8_t* panels, int64_t, int64_t lines, int,
                       int32_t* out) {
  const __m512i mask = _mm512_set1_epi8(15);
  __m512i sum[4];
  for (__m512i& s : sum) s = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 2 <= lines; i += 2) {
    const uint8_t* line = panels + i * kLineBytes;
    const __m512i x = _mm512_loadu_si512(line), y = _mm512_loadu_si512(line + kLineBytes);
    _mm_prefetch(reinterpret_cast<const char*>(line + ahead<1>(0)), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(line + ahead<1>(0) + kLineBytes), _MM_HINT_T0);
    const __m512i xh = _mm512_srli_epi16(x, 4), yh = _mm512_srli_epi16(y, 4);
    sum[0] = _mm512_dpbusd_epi32(sum[0], _mm512_and_si512(x, mask), quad(a + 8 * i));
    sum[1] = _mm512_dpbusd_epi32(sum[1], _mm512_and_si512(xh, mask), quad(a + 8 * i + 4));
    sum[2] = _mm512_dpbusd_epi32(sum[2], _mm512_and_si512(y, mask), quad(a + 8 * i + 8));
    sum[3] = _mm512_dpbusd_epi32(sum[3], _mm512_and_si512(yh, mask), quad(a + 8 * i + 12));
  }
  for (; i < lines; ++i) {
    const __m512i x = _mm512_loadu_si512(panels + i * kLineBytes);
    const __m512i xh = _mm512_srli_epi16(x, 4);
    sum[0] = _mm512_dpbusd_epi32(sum[0], _mm512_and_si512(x, mask), quad(a + 8 * i));
    sum[1] = _mm512_dpbusd_epi32(sum[1], _mm512_and_si512(xh, mask), quad(a + 8 * i + 4));
  }
  const __m512i all =
      _mm512_add_epi32(_mm512_add_epi32(sum[0], sum[1]), _mm512_add_epi32(sum[2], sum[3]));
  _mm512_storeu_si512(out, all);
}

template <int R, int P>
void byte_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int,
               int32_t* out) {
  __m512i sum[R][P];
#pragma GCC unroll 24
  for (int i = 0; i < R * P; ++i) sum[i / P][i % P] = _mm512_setzero_si512();
  for (int64_t i = 0; i < lines; ++i) {
    __m512i codes[P];
#pragma GCC unroll 3
    for (int p = 0; p < P; ++p) {
      const uint8_t* line = panels + p * stride + i * kLineBytes;
      codes[p] = _mm512_loadu_si512(line);
      _mm_prefetch(reinterpret_cast<const char*>(line + ahead<P>(stride)), _MM_HINT_T0);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i part = quad(a + i * 4 * R + 4 * r);
#pragma GCC unroll 3
      for (int p = 0; p < P; ++p) {
        sum[r][p] = _mm512_dpbusd_epi32(sum[r][p], codes[p], part);
        pin(sum[r][p]);
      }
    }
  }
  store<R, P>(sum, out);
}

int64_t register_products(int64_t steps) {
  constexpr int kSums = 24;
  __m512i sum[kSums], a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(static_cast<char>(steps & 1));
#pragma GCC unroll 24
  for (int i = 0; i < kSums; ++i) sum[i] = _mm512_setzero_si512();
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
    for (int i = 0; i < kSums; ++i) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      pin(sum[i]);
    }
  }
  for (const auto& s : sum) __asm__ volatile("" : : "v"(s));
  return steps * kSums * 64;
}

constexpr CodeProducts kVnni = {"avx512-vnni",
                                {{nibble_tile<1, 1>, nibble_tile<1, 2>, nibble_tile<1, 3>},
                                 {nibble_tile<2, 1>, nibble_tile<2, 2>, nibble_tile<2, 3>},
                                 {nibble_tile<4, 1>, nibble_tile<4, 2>, nibble_tile<4, 3>},
                                 {nibble_tile<8, 1>, nibble_tile<8, 2>, nibble_tile<8, 3>}},
                                {{byte_tile<1, 1>, byte_tile<1, 2>, byte_tile<1, 3>},
                                 {byte_tile<2, 1>, byte_tile<2, 2>, byte_tile<2, 3>},
                                 {byte_tile<4, 1>, byte_tile<4, 2>, byte_tile<4, 3>},
                                 {byte_tile<8, 1>, byte_tile<8, 2>, byte_tile<8, 3>}},
                                register_products};

}  // namespace

const CodeProducts& code_products_avx512vnni() { return kVnni; }

}  // namespace osp::kernels
