#include "osp/runtime/linear_product.h"

#include <algorithm>

namespace osp {
namespace {

using kernels::kLineBytes;
using kernels::kPanelOutputs;
using kernels::kStepBytes;
using kernels::kStepLines;
using kernels::kTilePanels;
using kernels::kWidePanels;
using kernels::kWideRows;

struct LinearProduct {
  const CodeBuffer& codes;
  const PackedLinear& weight;
  const kernels::EngineKernels& kernels;
  const kernels::CodeProducts& products;
  const float* residual;
  float* out;

  // Tiles of interleaved rows, on panels as they are.
  void few_rows(int64_t begin, int64_t end, int64_t together) const;
  // Tiles of whole rows: panels are unpacked, once for all rows.
  void many_rows(int64_t begin, int64_t end, int64_t together) const;
  // The outputs of a tile of `size` integers for each segment.
  void finish(const RowTile& tile, int64_t first, int64_t panels, const int32_t* sums,
              int64_t size) const;
};

void LinearProduct::few_rows(int64_t begin, int64_t end, int64_t together) const {
  const int64_t segments = weight.segments(), lines = weight.segment / weight.line_columns();
  std::vector<int32_t> sums(static_cast<size_t>(segments * 8 * kTilePanels * kPanelOutputs));
  for (int64_t bundle = begin; bundle < end; ++bundle) {
    const int64_t first = bundle * together;
    const int64_t now = std::min(together, weight.panel_count() - first);
    const uint8_t* panels = weight.panels.data() + first * weight.panel_bytes();
    for (const RowTile& tile : codes.tiles()) {
      const int64_t R = kernels::kTileRows[tile.size], size = R * now * kPanelOutputs;
      const kernels::CodeTile run = products.tiles(weight.bits)[tile.size][now - 1];
      for (int64_t t = 0; t < segments; ++t) {
        run(codes.tile(tile) + t * weight.segment * R, panels + t * lines * kLineBytes,
            weight.panel_bytes(), lines, codes.largest(), sums.data() + t * size);
      }
      finish(tile, first, now, sums.data(), size);
    }
  }
}

void LinearProduct::many_rows(int64_t begin, int64_t end, int64_t together) const {
  const kernels::WideProducts& wide = *products.wide;
  const int64_t segments = weight.segments(), lines = weight.segment / weight.line_columns();
  const int64_t steps = kernels::wide_steps(weight.segment), stride = segments * steps * kStepBytes;
  // Lines behind a segment's last column stay zero.
  std::vector<kernels::Line> unpacked(
      static_cast<size_t>(together * segments * steps * kStepLines));
  std::vector<int32_t> sums(
      static_cast<size_t>(segments * 2 * kWideRows * together * kPanelOutputs));
  auto* const scratch = reinterpret_cast<uint8_t*>(unpacked.data());
  wide.begin();
  for (int64_t bundle = begin; bundle < end; ++bundle) {
    const int64_t first = bundle * together;
    const int64_t now = std::min(together, weight.panel_count() - first);
    // Panels follow each other, as their segments do.
    const uint8_t* panels = weight.panels.data() + first * weight.panel_bytes();
    for (int64_t i = 0; i < now * segments; ++i) {
      const uint8_t* part = panels + i * lines * kLineBytes;
      uint8_t* to = scratch + i * steps * kStepBytes;
      if (weight.bits == 4) wide.unpack(part, lines, to);
      if (weight.bits == 8) std::copy(part, part + lines * kLineBytes, to);
    }
    for (const RowTile& tile : codes.tiles()) {
      const int64_t size = (tile.size + 1) * kWideRows * now * kPanelOutputs;
      const kernels::WideTile run = wide.tiles[tile.size][now - 1];
      for (int64_t t = 0; t < segments; ++t) {
        run(codes.tile(tile) + t * weight.segment, codes.row_bytes(),
            scratch + t * steps * kStepBytes, stride, steps, sums.data() + t * size);
      }
      finish(tile, first, now, sums.data(), size);
    }
  }
  wide.end();
}

void LinearProduct::finish(const RowTile& tile, int64_t first, int64_t panels, const int32_t* sums,
                           int64_t size) const {
  const int64_t at = tile.first / codes.digits() * weight.outputs + first * kPanelOutputs;
  kernels.epilogue({.sums = sums,
                    .segment_stride = size,
                    .rows = tile.rows / codes.digits(),
                    .panels = panels,
                    .digits = codes.digits(),
                    .scales = weight.scales(first),
                    .scale = codes.scale(tile.first),
                    .zero = codes.zero(tile.first),
                    .code_sum = codes.sum(tile.first),
                    .residual = residual == nullptr ? nullptr : residual + at,
                    .out = out + at,
                    .out_stride = weight.outputs});
}

}  // namespace

void linear_product(const CodeBuffer& codes, const PackedLinear& weight,
                    const kernels::EngineKernels& kernels, const kernels::CodeProducts& products,
                    const float* residual, float* out, WorkerPool& pool) {
  const LinearProduct product{codes, weight, kernels, products, residual, out};
  // A single row streams the weights: one panel at a time, so that memory is read in one run.
  const int64_t together = codes.wide() ? kWidePanels : codes.rows() <= 2 ? 1 : kTilePanels;
  pool.split((weight.panel_count() + together - 1) / together, [&](int64_t begin, int64_t end) {
    codes.wide() ? product.many_rows(begin, end, together) : product.few_rows(begin, end, together);
  });
}

}  // namespace osp
