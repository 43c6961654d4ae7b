// Integer products of 4-bit (or 8-bit) unsigned codes with signed bytes, on raw pointers, for one
// tile of rows and outputs. The one inner loop of the engine: linear layers (codes of weights and
// of activations), attention (codes of keys and values, digits of queries and probabilities) and
// the head. Sums are exact in 32 bits, so that every instruction set gives the same integers.
//
// A panel holds the codes of 16 outputs in lines of 64 bytes:
//
//   nibbles   a line is 16 outputs × 8 columns: byte 4 o + j of line i has column 8 i + j of output
//             o in its low half and column 8 i + 4 + j in its high half
//   bytes     a line is 16 outputs × 4 columns: byte 4 o + j of line i is column 4 i + j
//
// The rows of a tile of R are interleaved: byte (c / 4) · 4 R + 4 r + c % 4 is column c of row r.
//
// Instruction sets with registers of two dimensions have products of many rows besides, which read
// rows whole and panels unpacked (WideProducts).
#pragma once

#include <cstdint>

namespace osp::kernels {

// Rows of the tiles: 1, 2, 4 and 8, by index; panels side by side: 1 to 3.
inline constexpr int kTileSizes = 4;
inline constexpr int64_t kTileRows[kTileSizes] = {1, 2, 4, 8};
inline constexpr int64_t kTilePanels = 3;
inline constexpr int64_t kPanelOutputs = 16;
inline constexpr int64_t kLineBytes = 64;

// out[(r · panels + p) · 16 + o] = Σ_c code(p, o, c) · a(r, c) over `lines` lines. `stride`: bytes
// from a panel to the next. |a| ≤ `largest` (at most 128), which sets how long sums fit in 16 bits.
using CodeTile = void (*)(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines,
                          int largest, int32_t* out);

// A line in memory of its own: of panels, or of 64 columns of a row.
struct alignas(kLineBytes) Line {
  uint8_t bytes[kLineBytes];
};

// Products of 16 or 32 rows with one or two panels, 64 columns in a step. Rows lie whole,
// `a_stride` bytes apart; panels are lines of 16 outputs × 4 columns, 16 for each step. Where the
// columns are no multiple of 64, one of the operands is zero behind the last column and the other
// is readable. Rows beyond those that are wanted are multiplied too: they must be readable, and
// `out`, in the order of CodeTile's, must have room for them.
inline constexpr int64_t kWideRows = 16;
inline constexpr int64_t kWidePanels = 2;
inline constexpr int64_t kWideColumns = 64;
inline constexpr int64_t kStepLines = kWideColumns / 4;
inline constexpr int64_t kStepBytes = kStepLines * kLineBytes;

using WideTile = void (*)(const int8_t* a, int64_t a_stride, const uint8_t* lines, int64_t stride,
                          int64_t steps, int32_t* out);

struct WideProducts {
  // A thread calls tiles only between these two.
  void (*begin)();
  void (*end)();
  // `lines` lines of nibbles to twice as many of bytes.
  void (*unpack)(const uint8_t* nibbles, int64_t lines, uint8_t* bytes);
  WideTile tiles[2][kWidePanels];  // by sixteens of rows and by panels
};

// Steps that hold so many columns.
constexpr int64_t wide_steps(int64_t columns) {
  return (columns + kWideColumns - 1) / kWideColumns;
}

// Columns of a line of a panel whose codes have so many bits in memory: nibbles for 4, else bytes.
constexpr int64_t line_columns(int64_t bits) { return bits == 4 ? 8 : 4; }

using CodeTiles = CodeTile[kTileSizes][kTilePanels];

struct CodeProducts {
  const char* name;
  CodeTiles nibbles;
  CodeTiles bytes;
  // Those for panels of so many bits.
  const CodeTiles& tiles(int64_t bits) const { return bits == 4 ? nibbles : bytes; }
  // Multiplies and adds in registers alone, `steps` times the level's widest instruction in each of
  // its accumulators, and returns the number of multiply-adds: what a product could reach at most.
  int64_t (*register_products)(int64_t steps);
  // For passes of at least kWideRows rows, or null.
  const WideProducts* wide = nullptr;
};

// The table of the tiles TILE<rows, panels> in the order of kTileRows, as a braced list.
#define OSP_CODE_TILES(TILE)                                                        \
  {                                                                                 \
    {TILE<1, 1>, TILE<1, 2>, TILE<1, 3>}, {TILE<2, 1>, TILE<2, 2>, TILE<2, 3>},     \
        {TILE<4, 1>, TILE<4, 2>, TILE<4, 3>}, {TILE<8, 1>, TILE<8, 2>, TILE<8, 3>}, \
  }

const CodeProducts& code_products_portable();
const CodeProducts& code_products_avx2();
const CodeProducts& code_products_avx512vnni();
// Those of AVX-512 VNNI for few rows, AMX for many. has_amx_int8() must have been called.
const CodeProducts& code_products_amx();

}  // namespace osp::kernels
