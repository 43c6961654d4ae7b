#include "osp/optim/block_grid.h"

#include <ATen/ops/constant_pad_nd.h>

namespace osp {
namespace {

int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

at::Tensor BlockGrid::cut(const at::Tensor& x) const {
  const int64_t below = row_blocks * block_rows - rows, right = col_blocks * block_cols - cols;
  const at::Tensor whole = below + right > 0 ? at::constant_pad_nd(x, {0, right, 0, below}) : x;
  return whole.reshape({-1, row_blocks, block_rows, col_blocks, block_cols})
      .transpose(2, 3)
      .reshape({-1, block_rows, block_cols});
}

at::Tensor BlockGrid::join(const at::Tensor& blocks) const {
  return blocks.reshape({-1, row_blocks, col_blocks, block_rows, block_cols})
      .transpose(2, 3)
      .reshape({-1, row_blocks * block_rows, col_blocks * block_cols})
      .narrow(1, 0, rows)
      .narrow(2, 0, cols);
}

BlockGrid make_block_grid(int64_t rows, int64_t cols, int64_t largest) {
  BlockGrid grid{rows, cols, divided_up(rows, largest), divided_up(cols, largest), 0, 0};
  grid.block_rows = divided_up(rows, grid.row_blocks);
  grid.block_cols = divided_up(cols, grid.col_blocks);
  return grid;
}

}  // namespace osp
