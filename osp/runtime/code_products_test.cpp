// Every tile of every instruction set against plain sums in 64 bits.
#include "osp/runtime/code_products.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "osp/ops/isa.h"

namespace osp {
namespace {

using kernels::CodeProducts;
using kernels::kLineBytes;
using kernels::kPanelOutputs;
using kernels::kTileRows;

std::vector<const CodeProducts*> levels() {
  std::vector<const CodeProducts*> all = {&kernels::code_products_portable()};
  if (detect_isa() >= Isa::avx2) all.push_back(&kernels::code_products_avx2());
  if (has_avx512_vnni()) all.push_back(&kernels::code_products_avx512vnni());
  return all;
}

// A tile's operands in plain order, and what their product is.
struct Operands {
  int64_t rows, panels, columns;
  bool nibbles;
  std::vector<int8_t> a;      // [rows, columns]
  std::vector<uint8_t> code;  // [panels · 16, columns]

  std::vector<int8_t> tile() const {
    std::vector<int8_t> out(static_cast<size_t>(rows * columns));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        out[static_cast<size_t>(c / 4 * 4 * rows + 4 * r + c % 4)] =
            a[static_cast<size_t>(r * columns + c)];
      }
    }
    return out;
  }
  int64_t lines() const { return columns / (nibbles ? 8 : 4); }
  std::vector<uint8_t> packed() const {
    // Room behind the last panel, which is fetched ahead but never used.
    std::vector<uint8_t> out(static_cast<size_t>(panels * lines() * kLineBytes));
    for (int64_t o = 0; o < panels * kPanelOutputs; ++o) {
      for (int64_t c = 0; c < columns; ++c) {
        const uint8_t value = code[static_cast<size_t>(o * columns + c)];
        const int64_t panel = o / kPanelOutputs * lines() * kLineBytes + o % kPanelOutputs * 4;
        if (nibbles) {
          out[static_cast<size_t>(panel + c / 8 * kLineBytes + c % 4)] |=
              static_cast<uint8_t>(value << (c % 8 < 4 ? 0 : 4));
        } else {
          out[static_cast<size_t>(panel + c / 4 * kLineBytes + c % 4)] = value;
        }
      }
    }
    return out;
  }
  std::vector<int32_t> product() const {
    std::vector<int32_t> out(static_cast<size_t>(rows * panels * kPanelOutputs));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < panels * kPanelOutputs; ++o) {
        int64_t sum = 0;
        for (int64_t c = 0; c < columns; ++c) {
          sum += int64_t{a[static_cast<size_t>(r * columns + c)]} *
                 code[static_cast<size_t>(o * columns + c)];
        }
        out[static_cast<size_t>(r * panels * kPanelOutputs + o)] = static_cast<int32_t>(sum);
      }
    }
    return out;
  }
};

enum class Fill { random, largest, smallest };

Operands operands(int64_t rows, int64_t panels, int64_t columns, bool nibbles, int largest,
                  Fill fill) {
  Operands x{rows, panels, columns, nibbles, {}, {}};
  uint32_t state = static_cast<uint32_t>(rows * 31 + panels * 7 + columns);
  const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 8; };
  const int top = nibbles ? 15 : 255;
  // 4-bit codes have no sign, digits and 8-bit codes have.
  const int low = largest == 15 ? 0 : -largest, high = largest == 15 ? 15 : 127;
  for (int64_t i = 0; i < rows * columns; ++i) {
    const int value = fill == Fill::largest    ? high
                      : fill == Fill::smallest ? low
                                               : low + static_cast<int>(next() % (high - low + 1));
    x.a.push_back(static_cast<int8_t>(value));
  }
  for (int64_t i = 0; i < panels * kPanelOutputs * columns; ++i) {
    x.code.push_back(static_cast<uint8_t>(fill == Fill::random ? next() % (top + 1) : top));
  }
  return x;
}

TEST(CodeProducts, EveryTileIsTheExactSum) {
  for (const CodeProducts* level : levels()) {
    for (const bool nibbles : {true, false}) {
      for (int size = 0; size < kernels::kTileSizes; ++size) {
        for (int64_t panels = 1; panels <= kernels::kTilePanels; ++panels) {
          for (const int64_t columns : {16, 48, 592, 5504}) {
            for (const int largest : {15, 128}) {
              for (const Fill fill : {Fill::random, Fill::largest, Fill::smallest}) {
                const Operands x =
                    operands(kTileRows[size], panels, columns, nibbles, largest, fill);
                const auto tile = x.tile();
                const auto codes = x.packed();
                std::vector<int32_t> out(x.product().size());
                const auto run = (nibbles ? level->nibbles : level->bytes)[size][panels - 1];
                run(tile.data(), codes.data(), x.lines() * kLineBytes, x.lines(), largest,
                    out.data());
                ASSERT_EQ(out, x.product()) << level->name << ' ' << nibbles << ' '
                                            << kTileRows[size] << 'x' << panels << 'x' << columns;
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace osp
