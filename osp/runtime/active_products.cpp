#include "osp/runtime/active_products.h"

#include <algorithm>
#include <vector>

#include "osp/base/console.h"
#include "osp/ops/isa.h"
#include "osp/runtime/code_buffer.h"

namespace osp {
namespace {

using kernels::CodeProducts;
using kernels::CodeTile;
using kernels::kLineBytes;
using kernels::kPanelOutputs;
using kernels::kTilePanels;
using kernels::kTileRows;
using kernels::kTileSizes;

constexpr int64_t kColumns = 208;  // three steps of 64 and a part of one
constexpr int kLargest = 128;

// Bytes of every size, the same at each call.
void fill(void* to, size_t bytes) {
  uint32_t state = 1;
  for (size_t i = 0; i < bytes; ++i) {
    state = state * 1664525 + 1013904223;
    static_cast<uint8_t*>(to)[i] = static_cast<uint8_t>(state >> 24);
  }
}

// `tile` on interleaved rows `a`, and panels of `lines` lines each.
std::vector<int32_t> products_of(CodeTile tile, int64_t rows, int64_t count, const int8_t* a,
                                 const std::vector<kernels::Line>& panels, int64_t lines) {
  std::vector<int32_t> out(static_cast<size_t>(rows * count * kPanelOutputs));
  tile(a, panels.data()->bytes, lines * kLineBytes, lines, kLargest, out.data());
  return out;
}

// Tiles of interleaved rows.
bool exact_tiles(const CodeTile (&tiles)[kTileSizes][kTilePanels],
                 const CodeTile (&right)[kTileSizes][kTilePanels], int64_t line_columns) {
  const int64_t lines = kColumns / line_columns;
  std::vector<kernels::Line> panels(static_cast<size_t>(kTilePanels * lines));
  std::vector<int8_t> a(static_cast<size_t>(kTileRows[kTileSizes - 1] * kColumns));
  fill(panels.data(), panels.size() * kLineBytes);
  fill(a.data(), a.size());
  for (int size = 0; size < kTileSizes; ++size) {
    for (int64_t count = 1; count <= kTilePanels; ++count) {
      const auto of = [&](CodeTile tile) {
        return products_of(tile, kTileRows[size], count, a.data(), panels, lines);
      };
      if (of(tiles[size][count - 1]) != of(right[size][count - 1])) return false;
    }
  }
  return true;
}

// Tiles of whole rows: the same integers as tiles of one interleaved row, which is a whole one.
bool exact_wide_tiles(const kernels::WideProducts& wide) {
  const int64_t lines = kColumns / 8, steps = kernels::wide_steps(kColumns);
  const int64_t row_bytes = whole_row_bytes(kColumns);
  std::vector<kernels::Line> panels(static_cast<size_t>(kernels::kWidePanels * lines));
  std::vector<kernels::Line> unpacked(
      static_cast<size_t>(kernels::kWidePanels * steps * kernels::kStepLines));
  std::vector<kernels::Line> rows = whole_rows(2 * kernels::kWideRows, kColumns);
  fill(panels.data(), panels.size() * kLineBytes);
  fill(rows.data(), rows.size() * kLineBytes);
  const auto* a = reinterpret_cast<const int8_t*>(rows.data());
  auto* const scratch = unpacked.data()->bytes;
  const int64_t stride = steps * kernels::kStepBytes;
  bool exact = true;
  wide.begin();
  for (int64_t p = 0; p < kernels::kWidePanels; ++p) {
    wide.unpack(panels[static_cast<size_t>(p * lines)].bytes, lines, scratch + p * stride);
  }
  for (int64_t size = 0; size < 2; ++size) {
    for (int64_t count = 1; count <= kernels::kWidePanels; ++count) {
      const int64_t total = (size + 1) * kernels::kWideRows, of_row = count * kPanelOutputs;
      std::vector<int32_t> out(static_cast<size_t>(total * of_row));
      wide.tiles[size][count - 1](a, row_bytes, scratch, stride, steps, out.data());
      const CodeTile one = kernels::code_products_portable().nibbles[0][count - 1];
      for (int64_t r = 0; r < total; ++r) {
        const auto right = products_of(one, 1, count, a + r * row_bytes, panels, lines);
        exact = exact && std::equal(right.begin(), right.end(), out.begin() + r * of_row);
      }
    }
  }
  wide.end();
  return exact;
}

}  // namespace

bool gives_exact_products(const CodeProducts& level) {
  const CodeProducts& right = kernels::code_products_portable();
  return exact_tiles(level.nibbles, right.nibbles, 8) && exact_tiles(level.bytes, right.bytes, 4) &&
         (level.wide == nullptr || exact_wide_tiles(*level.wide));
}

const CodeProducts& first_exact_products(std::span<const CodeProducts* const> levels) {
  for (size_t i = 0; i + 1 < levels.size(); ++i) {
    if (gives_exact_products(*levels[i])) return *levels[i];
    Console().warn(
        "the {} products of this machine are wrong in a self-test, so they are not used; "
        "{} instead",
        levels[i]->name, levels[i + 1]->name);
  }
  return *levels.back();
}

const CodeProducts& active_code_products() {
  static const CodeProducts& products = []() -> const CodeProducts& {
    std::vector<const CodeProducts*> levels;
    if (has_avx512_vnni()) {
      if (has_amx_int8()) levels.push_back(&kernels::code_products_amx());
      levels.push_back(&kernels::code_products_avx512vnni());
    }
    if (active_isa() >= Isa::avx2) levels.push_back(&kernels::code_products_avx2());
    levels.push_back(&kernels::code_products_portable());
    return first_exact_products(levels);
  }();
  return products;
}

}  // namespace osp
