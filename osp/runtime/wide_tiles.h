// WideProducts (code_products.h) on eight tile registers of 16 rows × 64 bytes, as AMX has them.
//
// `Tiles` has the instructions: those of AMX (code_products_amx.cpp), or their emulation
// (test_emulated_amx.h), which runs anywhere and so tests everything here.
//
//   configure(config), release()      TileConfig: the shape of each register; all become zero
//   load<t>(memory, stride)           register t from rows `stride` bytes apart
//   store<t>(memory, stride)          the reverse
//   zero<t>()
//   multiply<c, a, b>()               c[m][n] += Σ_k Σ_j a[m][4 k + j] · b[k][4 n + j], c of 32
//                                     bits, a of signed and b of unsigned bytes
//
// Tested by active_products_test.cpp and linear_product_test.cpp.
#pragma once

#include "osp/runtime/code_products.h"

namespace osp::kernels {

// The operand of LDTILECFG, palette 1.
struct alignas(64) TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64);

inline constexpr TileConfig kFullTiles = {
    1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

template <class Tiles>
struct WideTiles {
  static void begin() { Tiles::configure(kFullTiles); }
  static void end() { Tiles::release(); }

  static void unpack(const uint8_t* nibbles, int64_t lines, uint8_t* bytes) {
    for (int64_t i = 0; i < lines; ++i, nibbles += kLineBytes, bytes += 2 * kLineBytes) {
      for (int64_t j = 0; j < kLineBytes; ++j) {
        const uint8_t both = nibbles[j];
        bytes[j] = both & 15;
        bytes[kLineBytes + j] = both >> 4;
      }
    }
  }

  // Registers 0–3 hold the sums of 16 R rows and P panels, 4 and 5 rows, 6 and 7 panels: a load for
  // each product where both are two.
  template <int R, int P>
  static void tile(const int8_t* a, int64_t a_stride, const uint8_t* lines, int64_t stride,
                   int64_t steps, int32_t* out) {
    Tiles::template zero<0>();
    if constexpr (P == 2) Tiles::template zero<1>();
    if constexpr (R == 2) Tiles::template zero<2>();
    if constexpr (R == 2 && P == 2) Tiles::template zero<3>();
    for (int64_t i = 0; i < steps; ++i, a += kWideColumns, lines += kStepBytes) {
      Tiles::template load<6>(lines, kLineBytes);
      Tiles::template load<4>(a, a_stride);
      Tiles::template multiply<0, 4, 6>();
      if constexpr (P == 2) {
        Tiles::template load<7>(lines + stride, kLineBytes);
        Tiles::template multiply<1, 4, 7>();
      }
      if constexpr (R == 2) {
        Tiles::template load<5>(a + kWideRows * a_stride, a_stride);
        Tiles::template multiply<2, 5, 6>();
        if constexpr (P == 2) Tiles::template multiply<3, 5, 7>();
      }
    }
    constexpr int64_t kRow = P * kPanelOutputs, kRowBytes = kRow * int64_t{sizeof(int32_t)};
    Tiles::template store<0>(out, kRowBytes);
    if constexpr (P == 2) Tiles::template store<1>(out + kPanelOutputs, kRowBytes);
    if constexpr (R == 2) {
      int32_t* second = out + kWideRows * kRow;
      Tiles::template store<2>(second, kRowBytes);
      if constexpr (P == 2) Tiles::template store<3>(second + kPanelOutputs, kRowBytes);
    }
  }

  // CodeProducts::register_products on the four sums.
  static int64_t register_products(int64_t steps) {
    constexpr int64_t kSums = 4;
    Line numbers[kStepLines];
    for (Line& line : numbers) {
      for (int64_t j = 0; j < kLineBytes; ++j) line.bytes[j] = static_cast<uint8_t>(j);
    }
    begin();
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
    Tiles::template load<4>(numbers, kLineBytes);
    Tiles::template load<5>(numbers, kLineBytes);
    Tiles::template load<6>(numbers, kLineBytes);
    Tiles::template load<7>(numbers, kLineBytes);
    for (int64_t i = 0; i < steps; ++i) {
      Tiles::template multiply<0, 4, 6>();
      Tiles::template multiply<1, 4, 7>();
      Tiles::template multiply<2, 5, 6>();
      Tiles::template multiply<3, 5, 7>();
    }
    end();
    return steps * kSums * kWideRows * kPanelOutputs * kWideColumns;
  }

  static constexpr WideProducts kTable = {
      begin, end, unpack, {{tile<1, 1>, tile<1, 2>}, {tile<2, 1>, tile<2, 2>}}};
};

// A level that takes `few` for few rows and Tiles for many.
template <class Tiles>
CodeProducts with_wide_tiles(CodeProducts few, const char* name) {
  few.name = name;
  few.register_products = WideTiles<Tiles>::register_products;
  few.wide = &WideTiles<Tiles>::kTable;
  return few;
}

}  // namespace osp::kernels
