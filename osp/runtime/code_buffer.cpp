#include "osp/runtime/code_buffer.h"

#include <algorithm>

namespace osp {

using kernels::kTileRows;
using kernels::kTileSizes;

namespace {

constexpr int64_t kFullTile = kTileRows[kTileSizes - 1];

int size_for(int64_t rows) {
  int size = 0;
  while (kTileRows[size] < rows) ++size;
  return size;
}

}  // namespace

std::vector<RowTile> row_tiles(int64_t rows) {
  std::vector<RowTile> tiles;
  for (int64_t first = 0; first < rows; first += kFullTile) {
    const int64_t now = std::min(kFullTile, rows - first);
    tiles.push_back({first, now, size_for(now)});
  }
  return tiles;
}

void CodeBuffer::resize(int64_t rows, int64_t columns, const kernels::CodeGrid& grid) {
  rows_ = rows;
  columns_ = columns;
  segment_ = grid.segment;
  segments_ = columns / grid.segment;
  largest_ = grid.shift > 0.0f ? static_cast<int>(grid.shift) : static_cast<int>(grid.top);
  const int64_t padded = (rows + kFullTile - 1) / kFullTile * kFullTile;
  codes_.resize(static_cast<size_t>(padded * columns));
  scale_.resize(static_cast<size_t>(rows * segments_));
  zero_.resize(scale_.size());
  sum_.resize(scale_.size());
}

kernels::CodeRow CodeBuffer::row(int64_t row, int64_t column) {
  const int64_t first = row / kFullTile * kFullTile;
  const int64_t stride = 4 * kTileRows[size_for(std::min(kFullTile, rows_ - first))];
  const int64_t at = row * segments_ + column / segment_;
  return {.codes = codes_.data() + first * columns_ + (row - first) * 4 + column / 4 * stride,
          .stride = stride,
          .scale = scale_.data() + at,
          .zero = zero_.data() + at,
          .sum = sum_.data() + at};
}

}  // namespace osp
