// The tiles of code_products.h with vpmaddubsw: pairs of products in 16 bits, widened to 32 before
// they can overflow.
//
//   |sum of a pair| ≤ 2 · 15 · largest, so 32767 / (30 · largest) steps fit: 72 for 4-bit codes, 8
//   for digits and 8-bit codes. Bytes against bytes (the head) do not fit even once and are widened
//   before the product.
#include <immintrin.h>

#include "osp/runtime/code_products.h"
#include "osp/runtime/repeat.h"

namespace osp::kernels {
namespace {

constexpr int64_t kAhead = 64 * kLineBytes;

inline __m256i quad(const int8_t* a) {
  int32_t four;
  __builtin_memcpy(&four, a, 4);
  return _mm256_set1_epi32(four);
}

inline __m256i half_line(const uint8_t* line, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + 32 * half));
}

inline void pin(__m256i& x) { __asm__("" : "+x"(x)); }

// R rows, of a tile of `tile_rows`, and one panel. Sums of 32 bits lie in `out`, so that those of
// 16 bits have the registers.
template <int R>
void nibble_rows(const int8_t* a, int64_t tile_rows, const uint8_t* panel, int64_t lines,
                 int largest, int32_t* out, int64_t out_stride) {
  const __m256i mask = _mm256_set1_epi8(15);
  const int64_t steps = 32767 / (2 * 2 * 15 * largest);  // lines, each of two steps
  for (int64_t begin = 0; begin < lines; begin += steps) {
    const int64_t end = begin + steps < lines ? begin + steps : lines;
    __m256i sum[2 * R];
    repeat<2 * R>([&]<int i>() __attribute__((always_inline)) { sum[i] = _mm256_setzero_si256(); });
    const int8_t* part = a + begin * 8 * tile_rows;
    for (int64_t i = begin; i < end; ++i, part += 8 * tile_rows) {
      const uint8_t* line = panel + i * kLineBytes;
      _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
      // The low halves of the bytes for all rows, then the high halves: fewer registers at once.
      const auto products = [&](__m256i x, __m256i y, const int8_t* columns)
          __attribute__((always_inline)) {
        repeat<R>([&]<int r>() __attribute__((always_inline)) {
          const __m256i four = quad(columns + 4 * r);
          sum[2 * r] = _mm256_add_epi16(sum[2 * r], _mm256_maddubs_epi16(x, four));
          sum[2 * r + 1] = _mm256_add_epi16(sum[2 * r + 1], _mm256_maddubs_epi16(y, four));
          pin(sum[2 * r]);
          pin(sum[2 * r + 1]);
        });
      };
      __m256i x = half_line(line, 0), y = half_line(line, 1);
      products(_mm256_and_si256(x, mask), _mm256_and_si256(y, mask), part);
      pin(x);
      pin(y);
      products(_mm256_and_si256(_mm256_srli_epi16(x, 4), mask),
               _mm256_and_si256(_mm256_srli_epi16(y, 4), mask), part + 4 * tile_rows);
    }
    const __m256i ones = _mm256_set1_epi16(1);
    repeat<2 * R>([&]<int i>() __attribute__((always_inline)) {
      auto* to = reinterpret_cast<__m256i*>(out + i / 2 * out_stride + 8 * (i % 2));
      const __m256i wide = _mm256_madd_epi16(sum[i], ones);
      _mm256_storeu_si256(to, begin == 0 ? wide : _mm256_add_epi32(_mm256_loadu_si256(to), wide));
    });
  }
}

// R rows and one panel of bytes.
template <int R>
void byte_rows(const int8_t* a, int64_t tile_rows, const uint8_t* panel, int64_t lines,
               int32_t* out, int64_t out_stride) {
  const __m256i even = _mm256_set1_epi16(255);
  __m256i total[R][2];
#pragma GCC unroll 8
  for (int i = 0; i < 2 * R; ++i) total[i / 2][i % 2] = _mm256_setzero_si256();
  for (int64_t i = 0; i < lines; ++i) {
    const uint8_t* line = panel + i * kLineBytes;
    _mm_prefetch(reinterpret_cast<const char*>(line + kAhead), _MM_HINT_T0);
    const __m256i x = half_line(line, 0), y = half_line(line, 1);
    // Columns 0 and 2 of each output, then 1 and 3, as 16 bits.
    const __m256i xe = _mm256_and_si256(x, even), xo = _mm256_srli_epi16(x, 8);
    const __m256i ye = _mm256_and_si256(y, even), yo = _mm256_srli_epi16(y, 8);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256i part = quad(a + i * 4 * tile_rows + 4 * r);
      const __m256i pe = _mm256_srai_epi16(_mm256_slli_epi16(part, 8), 8);
      const __m256i po = _mm256_srai_epi16(part, 8);
      total[r][0] = _mm256_add_epi32(
          total[r][0], _mm256_add_epi32(_mm256_madd_epi16(xe, pe), _mm256_madd_epi16(xo, po)));
      total[r][1] = _mm256_add_epi32(
          total[r][1], _mm256_add_epi32(_mm256_madd_epi16(ye, pe), _mm256_madd_epi16(yo, po)));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 2 * R; ++i) {
    auto* to = reinterpret_cast<__m256i*>(out + (i / 2) * out_stride + 8 * (i % 2));
    _mm256_storeu_si256(to, total[i / 2][i % 2]);
  }
}

// Rows of a tile are taken four by four: the accumulators of more do not fit 16 registers.
template <int R, int P>
void nibble_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int largest,
                 int32_t* out) {
  constexpr int kStep = R < 4 ? R : 4;
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; r += kStep) {
      nibble_rows<kStep>(a + 4 * r, R, panels + p * stride, lines, largest,
                         out + (r * P + p) * kPanelOutputs, P * kPanelOutputs);
    }
  }
}

template <int R, int P>
void byte_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int,
               int32_t* out) {
  constexpr int kStep = R == 1 ? 1 : 2;
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; r += kStep) {
      byte_rows<kStep>(a + 4 * r, R, panels + p * stride, lines, out + (r * P + p) * kPanelOutputs,
                       P * kPanelOutputs);
    }
  }
}

int64_t register_products(int64_t steps) {
  constexpr int kSums = 12;
  __m256i sum[kSums], a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(static_cast<char>(steps & 1));
  repeat<kSums>([&]<int i>() __attribute__((always_inline)) { sum[i] = _mm256_setzero_si256(); });
  for (int64_t step = 0; step < steps; ++step) {
    repeat<kSums>([&]<int i>() __attribute__((always_inline)) {
      pin(b);
      sum[i] = _mm256_add_epi16(sum[i], _mm256_maddubs_epi16(a, b));
      pin(sum[i]);
    });
  }
  repeat<kSums>([&]<int i>() __attribute__((always_inline)) {
    const __m256i& used = sum[i];  // clang takes no captured variable
    __asm__ volatile("" : : "x"(used));
  });
  return steps * kSums * 32;
}

constexpr CodeProducts kAvx2 = {"avx2", OSP_CODE_TILES(nibble_tile), OSP_CODE_TILES(byte_tile),
                                register_products};

}  // namespace

const CodeProducts& code_products_avx2() { return kAvx2; }

}  // namespace osp::kernels
