// Products of bf16 matrices stored in panels, with fp32 sums, on raw memory. Files that are
// compiled for one instruction set may include no other header of this project. For CPUs with
// AVX-512 and its bf16 products (has_avx512_bf16()).
//
// A matrix M [rows, cols] in panels: panel p holds the columns [32 p, 32 p + 32) as pairs of rows,
//
//   panel[pair][column] = M[2 pair][column] | M[2 pair + 1][column] << 16
//
// with zeros beyond the last row and column. Panels of two matrices with equally many rows are
// multiplied as Aᵀ B, 32 x 32 numbers (a tile) at a time.
#pragma once

#include <cstdint>

namespace osp::panel_kernels {

inline constexpr int64_t kPanel = 32;                       // columns of a panel, sides of a tile
inline constexpr int64_t kTile = kPanel * kPanel;           // numbers of a tile
inline constexpr int64_t kTileWords = kPanel / 2 * kPanel;  // words of a tile in panels
inline constexpr int64_t kBlock = 4;  // panels whose products are taken together

// Writes panel p of a matrix with `rows` rows of `cols` numbers, `stride` apart, `pairs`
// pairs long.
void pack_panel_avx512bf16(const uint16_t* matrix, int64_t rows, int64_t cols, int64_t stride,
                           int64_t p, int64_t pairs, uint32_t* panel);

// Writes panel p of the transpose of that matrix: its columns are the rows of the matrix.
void pack_transposed_panel_avx512bf16(const uint16_t* matrix, int64_t rows, int64_t cols,
                                      int64_t stride, int64_t p, int64_t pairs, uint32_t* panel);

// Unpacking: the row-major matrix from its panel, or from that of its transpose.
void unpack_panel_avx512bf16(const uint32_t* panel, int64_t rows, int64_t cols, int64_t p,
                             uint16_t* matrix);
void unpack_transposed_panel_avx512bf16(const uint32_t* panel, int64_t rows, int64_t cols,
                                        int64_t p, uint16_t* matrix);

// tiles[i][j][r][c] = Σ over pairs of a[i][pair][r] · b[j][pair][c], both products of a pair, for
// i < num_a and j < num_b (at most kBlock; tiles[i] is kBlock tiles apart from tiles[i + 1]).
// a[i] and b[j] are a_stride and b_stride words apart. With `lower` tiles of j > i are omitted.
void multiply_panels_avx512bf16(const uint32_t* a, int64_t a_stride, int64_t num_a,
                                const uint32_t* b, int64_t b_stride, int64_t num_b, int64_t pairs,
                                bool lower, float* tiles);

// A multiple of a tile in panels, for sums.
struct Term {
  float factor = 0;
  const uint32_t* words = nullptr;  // nullptr: no term
};

// Rounds factor · tile + x + y to bf16 and writes it in panels to `out` and its transpose to
// `transposed`; either may be nullptr, and x or y may be what is overwritten.
void store_tile_avx512bf16(const float* tile, float factor, Term x, Term y, uint32_t* out,
                           uint32_t* transposed);

// x = bf16(factor_x · x + factor_y · y), on `count` pairs of bf16 numbers.
void combine_avx512bf16(uint32_t* x, float factor_x, const uint32_t* y, float factor_y,
                        int64_t count);

}  // namespace osp::panel_kernels
