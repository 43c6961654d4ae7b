#include "osp/runtime/code_buffer.h"

#include <algorithm>

namespace osp {

using kernels::kLineBytes;
using kernels::kTileRows;
using kernels::kTileSizes;
using kernels::kWideRows;

namespace {

constexpr int64_t kFullTile = kTileRows[kTileSizes - 1];
constexpr int64_t kFullWideTile = 2 * kWideRows;

int size_for(int64_t rows) {
  int size = 0;
  while (kTileRows[size] < rows) ++size;
  return size;
}

int64_t up_to(int64_t count, int64_t multiple) {
  return (count + multiple - 1) / multiple * multiple;
}

}  // namespace

std::vector<kernels::Line> whole_rows(int64_t rows, int64_t columns) {
  const int64_t lines = up_to(rows, kWideRows) * whole_row_bytes(columns) / kLineBytes;
  return std::vector<kernels::Line>(static_cast<size_t>(lines + 1));
}

void CodeBuffer::resize(int64_t rows, int64_t columns, const kernels::CodeGrid& grid) {
  digits_ = grid.digits;
  rows *= digits_;
  rows_ = rows;
  segment_ = grid.segment;
  segments_ = columns / grid.segment;
  largest_ = grid.shift > 0.0f ? static_cast<int>(grid.shift) : static_cast<int>(grid.top);
  if (digits_ == 2) largest_ = 128;
  // Whole rows, or tiles of 8 rows and one smaller tile.
  const int64_t full = wide() ? kFullWideTile : kFullTile;
  tiles_.clear();
  for (int64_t first = 0; first < rows; first += full) {
    const int64_t now = std::min(full, rows - first);
    tiles_.push_back({first, now, wide() ? static_cast<int>(now > kWideRows) : size_for(now)});
  }
  row_bytes_ = wide() ? whole_row_bytes(columns) : columns;
  const int64_t bytes = up_to(rows, wide() ? kWideRows : kFullTile) * row_bytes_;
  codes_.resize(static_cast<size_t>(bytes / kLineBytes + 1));
  scale_.resize(static_cast<size_t>(rows * segments_));
  zero_.resize(scale_.size());
  sum_.resize(scale_.size());
}

kernels::CodeRow CodeBuffer::row(int64_t row, int64_t column) {
  row *= digits_;
  const int64_t first = row / kFullTile * kFullTile;
  // A whole row is a tile of its own.
  const int64_t stride = wide() ? 4 : 4 * kTileRows[size_for(std::min(kFullTile, rows_ - first))];
  const int64_t start = wide() ? row * row_bytes_ : first * row_bytes_ + (row - first) * 4;
  const int64_t at = row * segments_ + column / segment_;
  int8_t* const codes = reinterpret_cast<int8_t*>(codes_.data()) + start + column / 4 * stride;
  kernels::CodeRow out{.codes = codes,
                       .stride = stride,
                       .scale = scale_.data() + at,
                       .zero = zero_.data() + at,
                       .sum = sum_.data() + at};
  if (digits_ == 2) {
    out.low_codes = codes + (wide() ? row_bytes_ : 4);
    out.low_sum = out.sum + segments_;
  }
  return out;
}

}  // namespace osp
