// Passes of fused causal attention between its matrix products, on raw pointers (no tensor headers:
// the .cpp is compiled with its own flags, see cmake/folder.cmake). bf16 values are their bits,
// arithmetic is fp32. For CPUs with AVX-512 and its bf16 products.
//
// Tested by osp/ops/fused_attention_test.cpp.
//
// "Pairs" is the layout that bf16 products need for their right operand [R, C]: [R/2, C, 2], two
// rows side by side.
#pragma once

#include <cstdint>

namespace osp::attention_kernels {

// Queries that are taken together. Everything that has a row per key and a column per query is
// kQueries wide; `count` of the columns stand for queries.
constexpr int64_t kQueries = 64;

// Pairs of the transpose of x [rows, columns]: out [columns/2, width, 2] with zeros beyond `rows`.
// columns is even; stride in values.
void pack_transposed(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns,
                     uint16_t* out, int64_t width);

// Pairs of x [rows, columns] itself: out [(rows+1)/2, columns, 2], a last odd row with zeros.
void pack_pairs(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* out);

// out [columns, width] = the transpose of x [rows, columns], zeros beyond `rows`.
void transpose(const uint16_t* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* out,
               int64_t width);

// One query's row of probabilities from its products with keys 0 … end−1, of which it sees
// first … last: p = exp(scale · (logits − largest)), 0 for those it does not see, up to `width`.
// Gives the sum of p and sets log_sum = log Σ exp(scale · logits).
float softmax_row(const float* logits, int64_t first, int64_t last, float scale, uint16_t* p,
                  int64_t width, float* log_sum);

// out = factor · x, rounded.
void round_scaled(const float* x, float factor, uint16_t* out, int64_t count);

// Σ x y.
float dot(const uint16_t* x, const uint16_t* y, int64_t count);

// A block of queries as the backward pass sees it. The query of column j sees the keys first[j] …
// last[j]; none where log_sum is infinite.
struct QueryBlock {
  float log_sum[kQueries], delta[kQueries];
  int32_t first[kQueries], last[kQueries];
};

// Probabilities and the gradient of the logits for the keys first_key … first_key + keys − 1. From
// logits = keys · queriesᵀ and d_p = values · d_outᵀ, both [keys, kQueries]:
//   p  = exp(scale · logits − log_sum) where the query sees the key, else 0    [keys, kQueries]
//   ds = p · (d_p − delta)             [keys, kQueries], and as ds_pairs [(keys+1)/2, kQueries, 2]
void probability_gradient(const float* logits, const float* d_p, const QueryBlock& queries,
                          int64_t first_key, int64_t keys, float scale, uint16_t* p, uint16_t* ds,
                          uint16_t* ds_pairs);

// out [count, columns] = factor · the transpose of x [columns, kQueries], rounded; stride of out.
void round_transposed(const float* x, float factor, int64_t count, int64_t columns, uint16_t* out,
                      int64_t stride);

}  // namespace osp::attention_kernels
