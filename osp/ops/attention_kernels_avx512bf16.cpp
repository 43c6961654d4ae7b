#include "osp/ops/attention_kernels.h"

#include <immintrin.h>

namespace osp::attention_kernels {
namespace {

constexpr int64_t kLanes = 16;

__mmask16 first_lanes(int64_t count) {
  return count >= kLanes ? __mmask16(0xFFFF) : __mmask16((1u << (count < 0 ? 0 : count)) - 1);
}

// bf16 of 16 values, to nearest even.
__m256i rounded(__m512 x) { return __m256i(_mm512_cvtneps_pbh(x)); }

__m512 widened(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// exp(x) for x ≤ about 0: 2^n · 2^f with a polynomial of degree 5 in f · ln 2, f in [−½, ½].
// Relative error below 3e-7; 0 far below.
__m512 exp_of(__m512 x) {
  const __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f));
  const __m512 n = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 g = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  g = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), g);
  __m512 p = _mm512_set1_ps(8.3333333e-3f);
  p = _mm512_fmadd_ps(p, g, _mm512_set1_ps(4.1666667e-2f));
  p = _mm512_fmadd_ps(p, g, _mm512_set1_ps(1.6666667e-1f));
  p = _mm512_fmadd_ps(p, g, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, g, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, g, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

}  // namespace

void pack_transposed(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns,
                     uint16_t* out, int64_t width) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(int(stride)));
  for (int64_t row = 0; row < width; row += kLanes) {
    const __mmask16 inside = first_lanes(rows - row), stored = first_lanes(width - row);
    for (int64_t column = 0; column < columns; column += 2) {
      const __m512i pairs = _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), inside, offsets,
                                                        x + row * stride + column, 2);
      _mm512_mask_storeu_epi32(out + column * width + 2 * row, stored, pairs);
    }
  }
}

void pack_pairs(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* out) {
  for (int64_t row = 0; row < rows; row += 2) {
    const uint16_t* first = x + row * stride;
    uint16_t* to = out + row * columns;
    for (int64_t column = 0; column < columns; column += kLanes) {
      const __mmask16 inside = first_lanes(columns - column);
      const __mmask16 second = row + 1 < rows ? inside : __mmask16(0);
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(inside, first + column));
      const __m512i high =
          _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, first + stride + column));
      _mm512_mask_storeu_epi32(to + 2 * column, inside,
                               _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

void transpose(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* out,
               int64_t width) {
  for (int64_t column = 0; column < columns; ++column) {
    uint16_t* to = out + column * width;
    for (int64_t row = 0; row < rows; ++row) to[row] = x[row * stride + column];
    for (int64_t row = rows; row < width; ++row) to[row] = 0;
  }
}

float softmax_row(const float* logits, int64_t first, int64_t last, float scale, uint16_t* p,
                  int64_t width, float* log_sum) {
  // Find the largest logit of the keys that the query sees.
  const __m512 none = _mm512_set1_ps(-__builtin_inff());
  __m512 largest = none;
  const int64_t begin = first / kLanes * kLanes;
  const auto visible = [&](int64_t key) {
    return __mmask16(first_lanes(last + 1 - key) & ~first_lanes(first - key));
  };
  for (int64_t key = begin; key <= last; key += kLanes) {
    largest = _mm512_max_ps(largest, _mm512_mask_loadu_ps(none, visible(key), logits + key));
  }
  const float most = _mm512_reduce_max_ps(largest);
  // Write e^(scale · (logit − largest)), 0 for other keys, and add them up.
  const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(-scale * most);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t key = 0; key < width; key += kLanes) {
    __m256i bits = _mm256_setzero_si256();
    if (key >= begin && key <= last) {
      const __mmask16 seen = visible(key);
      const __m512 x = _mm512_maskz_loadu_ps(seen, logits + key);
      const __m512 e = _mm512_maskz_mov_ps(seen, exp_of(_mm512_fmadd_ps(x, factor, shift)));
      sum = _mm512_add_ps(sum, e);
      bits = rounded(e);
    }
    _mm256_mask_storeu_epi16(p + key, first_lanes(width - key), bits);
  }
  // The sum is the divisor of the row; its logarithm is for the backward pass.
  const float total = _mm512_reduce_add_ps(sum);
  *log_sum = scale * most + __builtin_logf(total);
  return total;
}

void round_scaled(const float* x, float factor, uint16_t* out, int64_t count) {
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 inside = first_lanes(count - i);
    _mm256_mask_storeu_epi16(out + i, inside,
                             rounded(_mm512_mul_ps(f, _mm512_maskz_loadu_ps(inside, x + i))));
  }
}

float dot(const uint16_t* x, const uint16_t* y, int64_t count) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += kLanes) {
    const __mmask16 inside = first_lanes(count - i);
    sum = _mm512_fmadd_ps(widened(_mm256_maskz_loadu_epi16(inside, x + i)),
                          widened(_mm256_maskz_loadu_epi16(inside, y + i)), sum);
  }
  return _mm512_reduce_add_ps(sum);
}

void probability_gradient(const float* logits, const float* d_p, const QueryBlock& queries,
                          int64_t first_key, int64_t keys, float scale, uint16_t* p, uint16_t* ds,
                          uint16_t* ds_pairs) {
  const __m512 factor = _mm512_set1_ps(scale);
  for (int64_t column = 0; column < kQueries; column += kLanes) {
    // Sixteen queries: what their rows of softmax need, and the keys that they see.
    const __m512 log_sum = _mm512_loadu_ps(queries.log_sum + column);
    const __m512 delta = _mm512_loadu_ps(queries.delta + column);
    const __m512i first = _mm512_loadu_si512(queries.first + column);
    const __m512i last = _mm512_loadu_si512(queries.last + column);
    // Writes p and ds of one key and gives the bits of ds.
    const auto one_key = [&](int64_t row) {
      const __m512i key = _mm512_set1_epi32(int(first_key + row));
      const __mmask16 seen =
          _mm512_cmple_epi32_mask(first, key) & _mm512_cmple_epi32_mask(key, last);
      const int64_t at = row * kQueries + column;
      // p = e^(scale · logit − log_sum), 0 for keys that the query does not see.
      const __m512 x = _mm512_fmsub_ps(factor, _mm512_loadu_ps(logits + at), log_sum);
      const __m512 probability = _mm512_maskz_mov_ps(seen, exp_of(x));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + at), rounded(probability));
      // ds = p · (d_p − delta).
      const __m512 gradient =
          _mm512_mul_ps(probability, _mm512_sub_ps(_mm512_loadu_ps(d_p + at), delta));
      const __m256i bits = rounded(_mm512_maskz_mov_ps(seen, gradient));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(ds + at), bits);
      return _mm512_cvtepu16_epi32(bits);
    };
    // Two keys at a time, whose ds also go side by side into ds_pairs.
    for (int64_t row = 0; row < keys; row += 2) {
      __m512i pairs = one_key(row);
      if (row + 1 < keys) pairs = _mm512_or_si512(pairs, _mm512_slli_epi32(one_key(row + 1), 16));
      _mm512_storeu_si512(ds_pairs + row * kQueries + 2 * column, pairs);
    }
  }
}

void round_transposed(const float* x, float factor, int64_t count, int64_t columns, uint16_t* out,
                      int64_t stride) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(int(kQueries)));
  const __m512 f = _mm512_set1_ps(factor);
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t column = 0; column < columns; column += kLanes) {
      const __mmask16 inside = first_lanes(columns - column);
      const __m512 values = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), inside, offsets,
                                                     x + column * kQueries + row, 4);
      _mm256_mask_storeu_epi16(out + row * stride + column, inside,
                               rounded(_mm512_mul_ps(f, values)));
    }
  }
}

}  // namespace osp::attention_kernels
