// The codes of the rows of a step as products read them, with the scale, zero and sum of each
// segment of each row: in tiles of up to 8 rows, interleaved (code_products.h), or whole, in tiles
// of up to 32 rows, for the products of many rows. On a grid of two digits a row of numbers is two
// neighbouring rows of codes, the high digits first.
//
// Tested by linear_product_test.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/runtime/engine_kernels.h"

namespace osp {

// Neighbouring rows of a step that products take together.
struct RowTile {
  int64_t first = 0, rows = 0;
  int size = 0;  // index into kTileRows: the smallest tile that holds them; if wide, into `tiles`
};

// Bytes from a whole row to the next: an odd number of lines, since rows at powers of two would
// share few places of the first-level cache.
constexpr int64_t whole_row_bytes(int64_t columns) {
  return (kernels::wide_steps(columns) | 1) * kernels::kWideColumns;
}

// Memory for whole rows: up to a full tile, and a last step that reaches beyond the last row.
std::vector<kernels::Line> whole_rows(int64_t rows, int64_t columns);

class CodeBuffer {
 public:
  // `wide`: there are products of many rows.
  explicit CodeBuffer(bool wide) : wide_products_(wide) {}

  // Makes room for `rows` rows of numbers, of `columns` codes on this grid.
  void resize(int64_t rows, int64_t columns, const kernels::CodeGrid& grid);
  // Largest code in size.
  int largest() const { return largest_; }
  // Rows lie whole, in tiles for WideProducts.
  bool wide() const { return wide_products_ && rows_ >= kernels::kWideRows; }
  // Rows of codes, `digits` for each row of numbers.
  int64_t rows() const { return rows_; }
  int64_t digits() const { return digits_; }

  // Where the codes of a row of numbers go, from column `column` on.
  kernels::CodeRow row(int64_t row, int64_t column = 0);
  const std::vector<RowTile>& tiles() const { return tiles_; }
  const int8_t* tile(const RowTile& tile) const { return codes() + tile.first * row_bytes_; }
  int64_t row_bytes() const { return row_bytes_; }
  const float* scale(int64_t row) const { return scale_.data() + row * segments_; }
  const float* zero(int64_t row) const { return zero_.data() + row * segments_; }
  const int32_t* sum(int64_t row) const { return sum_.data() + row * segments_; }

 private:
  const int8_t* codes() const { return reinterpret_cast<const int8_t*>(codes_.data()); }

  bool wide_products_;
  int64_t rows_ = 0, digits_ = 1, row_bytes_ = 0, segment_ = 0, segments_ = 0;
  int largest_ = 0;
  std::vector<RowTile> tiles_;
  std::vector<kernels::Line> codes_;
  std::vector<float> scale_, zero_;
  std::vector<int32_t> sum_;
};

}  // namespace osp
