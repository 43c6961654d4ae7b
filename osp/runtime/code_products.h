// Integer products of 4-bit (or 8-bit) unsigned codes with signed bytes, on raw pointers, for one
// tile of rows and outputs. The one inner loop of the engine: linear layers (codes of weights and of
// activations), attention (codes of keys and values, digits of queries and probabilities) and the
// head. Sums are exact in 32 bits, so that every instruction set gives the same integers.
//
// A panel holds the codes of 16 outputs in lines of 64 bytes:
//
//   nibbles   a line is 16 outputs × 8 columns: byte 4 o + j of line i has column 8 i + j of output
//             o in its low half and column 8 i + 4 + j in its high half
//   bytes     a line is 16 outputs × 4 columns: byte 4 o + j of line i is column 4 i + j
//
// The rows of a tile of R are interleaved: byte (c / 4) · 4 R + 4 r + c % 4 is column c of row r.
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

struct CodeProducts {
  const char* name;
  CodeTile nibbles[kTileSizes][kTilePanels];
  CodeTile bytes[kTileSizes][kTilePanels];
  // Multiplies and adds in registers alone, `steps` times the level's widest instruction in each of
  // its accumulators, and returns the number of multiply-adds: what a product could reach at most.
  int64_t (*register_products)(int64_t steps);
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

}  // namespace osp::kernels
