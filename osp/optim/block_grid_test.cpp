#include "osp/optim/block_grid.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "osp/optim/test_banks.h"

namespace osp {
namespace {

TEST(BlockGrid, JoinUndoesCutAndBlocksLieWhereTheyAreCounted) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{2, 8, 12}, {3, 7, 11}, {1, 1, 9}, {2, 9, 1}, {2, 4, 4}}) {
    const at::Tensor x = random_tensor(shape, "blocks");
    const BlockGrid grid = make_block_grid(shape[1], shape[2], 4);
    EXPECT_LE(grid.block_rows, 4);
    EXPECT_LE(grid.block_cols, 4);
    const at::Tensor blocks = grid.cut(x);
    ASSERT_EQ(blocks.size(0), shape[0] * grid.blocks_per_matrix());
    EXPECT_TRUE(at::equal(grid.join(blocks), x));
    const int64_t last = grid.blocks_per_matrix() - 1;
    EXPECT_EQ(blocks[last][0][0].item<float>(),
              x[0][(grid.row_blocks - 1) * grid.block_rows][(grid.col_blocks - 1) * grid.block_cols]
                  .item<float>());
    EXPECT_NEAR(norm_of(blocks), norm_of(x), 1e-5) << "zeros over the edge; fp32 sums";
  }
}

TEST(BlockGrid, SizesAreAsEqualAsCanBe) {
  const BlockGrid grid = make_block_grid(5504, 2048, 1024);
  EXPECT_EQ(grid.row_blocks, 6);
  EXPECT_EQ(grid.block_rows, 918);
  EXPECT_EQ(grid.col_blocks, 2);
  EXPECT_EQ(grid.block_cols, 1024);
}

}  // namespace
}  // namespace osp
