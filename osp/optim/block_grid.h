// Matrices cut into equal blocks, for preconditioners whose size must not grow with the matrix.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace osp {

// Matrices of rows x cols as row_blocks x col_blocks blocks of block_rows x block_cols; the last
// ones reach over the edge and are filled with zeros there.
struct BlockGrid {
  int64_t rows, cols;
  int64_t row_blocks, col_blocks;
  int64_t block_rows, block_cols;

  // Blocks of x [n, rows, cols]: [n · row_blocks · col_blocks, block_rows, block_cols], matrix by
  // matrix, each row by row. A copy, unless a matrix is one block.
  at::Tensor cut(const at::Tensor& x) const;
  // The inverse of cut(); the filling over the edge is dropped.
  at::Tensor join(const at::Tensor& blocks) const;

  int64_t blocks_per_matrix() const { return row_blocks * col_blocks; }
};

// The fewest blocks of at most `largest` in each direction, of sizes as equal as can be.
BlockGrid make_block_grid(int64_t rows, int64_t cols, int64_t largest);

}  // namespace osp
