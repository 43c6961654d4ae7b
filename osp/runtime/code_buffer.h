// The codes of the rows of a step as products read them: in tiles of up to 8 rows, interleaved
// (code_products.h), with the scale, zero and sum of each segment of each row.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/runtime/engine_kernels.h"

namespace osp {

// Neighbouring rows of a step that products take together.
struct RowTile {
  int64_t first = 0, rows = 0;
  int size = 0;  // index into kTileRows: the smallest tile that holds them
};

// Rows in tiles of 8 and one smaller tile.
std::vector<RowTile> row_tiles(int64_t rows);

class CodeBuffer {
 public:
  // Makes room for rows of `columns` codes on this grid.
  void resize(int64_t rows, int64_t columns, const kernels::CodeGrid& grid);
  // Largest code in size.
  int largest() const { return largest_; }

  // Where the codes of a row go, from column `column` on.
  kernels::CodeRow row(int64_t row, int64_t column = 0);
  const int8_t* tile(const RowTile& tile) const { return codes_.data() + tile.first * columns_; }
  const float* scale(int64_t row) const { return scale_.data() + row * segments_; }
  const float* zero(int64_t row) const { return zero_.data() + row * segments_; }
  const int32_t* sum(int64_t row) const { return sum_.data() + row * segments_; }

 private:
  int64_t rows_ = 0, columns_ = 0, segment_ = 0, segments_ = 0;
  int largest_ = 0;
  std::vector<int8_t> codes_;
  std::vector<float> scale_, zero_;
  std::vector<int32_t> sum_;
};

}  // namespace osp
