// The tiles of code_products.h with vpdpbusd: four products and their sum in one instruction, into
// 16 sums of 32 bits. The accumulators of a tile of 8 rows and 3 panels fill 24 of 32 registers;
// codes are unpacked in registers by two ANDs and a shift for each line.
#include <immintrin.h>

#include "osp/runtime/code_products.h"
#include "osp/runtime/repeat.h"

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

template <int R, int P>
inline __attribute__((always_inline)) void store(const __m512i (&sum)[R * P], int32_t* out) {
  repeat<R * P>([&]<int i>() __attribute__((always_inline)) {
    _mm512_storeu_si512(out + i * kPanelOutputs, sum[i]);
  });
}

template <int R, int P>
void nibble_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int,
                 int32_t* out) {
  const __m512i mask = _mm512_set1_epi8(15);
  __m512i sum[R * P];
  repeat<R * P>([&]<int i>() __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
  for (int64_t i = 0; i < lines; ++i, panels += kLineBytes, a += 8 * R) {
    __m512i both[P], codes[P];
    repeat<P>([&]<int p>() __attribute__((always_inline)) {
      const uint8_t* line = panels + p * stride;
      both[p] = _mm512_loadu_si512(line);
      _mm_prefetch(reinterpret_cast<const char*>(line + ahead<P>(stride)), _MM_HINT_T0);
    });
    // The low halves for all rows, then the high halves: both at once would need a 33rd register.
    const auto products = [&](const int8_t* columns) __attribute__((always_inline)) {
      repeat<R>([&]<int r>() __attribute__((always_inline)) {
        const __m512i part = quad(columns + 4 * r);
        repeat<P>([&]<int p>() __attribute__((always_inline)) {
          sum[r * P + p] = _mm512_dpbusd_epi32(sum[r * P + p], codes[p], part);
        });
      });
    };
    repeat<P>([&]<int p>()
                  __attribute__((always_inline)) { codes[p] = _mm512_and_si512(both[p], mask); });
    products(a);
    if constexpr (R == 8 && P == 3) __asm__("" : "+v"(both[0]), "+v"(both[1]), "+v"(both[2]));
    repeat<P>([&]<int p>() __attribute__((always_inline)) {
      codes[p] = _mm512_and_si512(_mm512_srli_epi16(both[p], 4), mask);
    });
    products(a + 4 * R);
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
  __m512i sum[R * P];
  repeat<R * P>([&]<int i>() __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
  for (int64_t i = 0; i < lines; ++i, panels += kLineBytes, a += 4 * R) {
    __m512i codes[P];
    repeat<P>([&]<int p>() __attribute__((always_inline)) {
      const uint8_t* line = panels + p * stride;
      codes[p] = _mm512_loadu_si512(line);
      _mm_prefetch(reinterpret_cast<const char*>(line + ahead<P>(stride)), _MM_HINT_T0);
    });
    repeat<R>([&]<int r>() __attribute__((always_inline)) {
      const __m512i part = quad(a + 4 * r);
      repeat<P>([&]<int p>() __attribute__((always_inline)) {
        sum[r * P + p] = _mm512_dpbusd_epi32(sum[r * P + p], codes[p], part);
      });
    });
  }
  store<R, P>(sum, out);
}

int64_t register_products(int64_t steps) {
  constexpr int kSums = 24;
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(static_cast<char>(steps & 1));
  __m512i sum[kSums];
  repeat<kSums>([&]<int i>() __attribute__((always_inline)) { sum[i] = _mm512_setzero_si512(); });
  for (int64_t step = 0; step < steps; ++step) {
    repeat<kSums>([&]<int i>() __attribute__((always_inline)) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      __asm__("" : "+v"(sum[i]));
    });
  }
  repeat<kSums>([&]<int i>() __attribute__((always_inline)) {
    const __m512i& used = sum[i];  // clang takes no captured variable
    __asm__ volatile("" : : "v"(used));
  });
  return steps * kSums * 64;
}

constexpr CodeProducts kVnni = {"avx512-vnni", OSP_CODE_TILES(nibble_tile),
                                OSP_CODE_TILES(byte_tile), register_products};

}  // namespace

const CodeProducts& code_products_avx512vnni() { return kVnni; }

}  // namespace osp::kernels
