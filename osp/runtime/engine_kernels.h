// The floating-point steps of the engine on raw pointers, one table per instruction set. Their
// results are the same bits at every level: each step is one fp32 operation in the order that
// docs/numerics.md ("Integer engine") writes down, sums over channels are 16 partial sums that are
// added in a fixed order, and nothing is contracted to a fused multiply-add.
//
// Row lengths are multiples of 16.
//
// Tested by engine_test.cpp and head_test.cpp.
#pragma once

#include <cstdint>

#include "osp/runtime/code_products.h"

namespace osp::kernels {

// How a row of numbers becomes codes: osp/quant/grid.h, with codes of 8 bits shifted by −128. A
// grid of two digits has no zero: x = (256 high + low) · scale, scale = max |x| / 32639, both
// from −128 to 127.
struct CodeGrid {
  int64_t group = 0;    // channels with a range of their own
  int64_t segment = 0;  // channels with a sum of their own: a divisor of `group`
  bool free_range = false;
  bool fixed = false;  // by fixed_scale and fixed_zero in place of a range
  float clip = 1.0f;
  float top = 15.0f;   // largest code
  float shift = 0.0f;  // is subtracted from codes and zeros
  float fixed_scale = 1.0f, fixed_zero = 0.0f;
  int digits = 1;
};

// The codes of one row and what the products need of it, by segment.
struct CodeRow {
  int8_t* codes;   // column c goes to (c / 4) · stride + c % 4
  int64_t stride;  // 4 · rows of the tile
  float* scale;
  float* zero;
  int32_t* sum;  // of codes
  // Where the low digits and their sums go, if the grid has two; the high ones are `codes`.
  int8_t* low_codes = nullptr;
  int32_t* low_sum = nullptr;
};

// Σ over segments t, ascending, of ((float(S − u · A) − zero · c) · scale_w) · scale, plus the
// bias: S the sum of products, A the row's sum of codes, u what 8 + the weight's zero is.
struct PanelScales {
  int64_t segments;
  const float* scale;      // [segments, 16]
  const float* centre;     // [segments, 16], c = Σ_i (code − zero) of the weights
  const int32_t* shifted;  // [segments, 16], u
  const float* bias;       // [16] or null
  bool all_eight;          // every u is 8
};

// A tile of products and where its outputs go. The scales, zeros and sums of a row's segments
// follow each other, those of the next row (of products) behind them.
struct TileOutput {
  const int32_t*
      sums;  // [segments][rows of the tile · panels][16], segments `segment_stride` apart
  int64_t segment_stride;
  int64_t rows,
      panels;  // rows of outputs: each of `digits` rows of products, the high digits first
  int64_t digits = 1;
  PanelScales scales;  // of the first panel; the others follow
  const float* scale;
  const float* zero;
  const int32_t* code_sum;
  const float* residual;  // of the first row's first panel, or null
  float* out;             // the same
  int64_t out_stride;     // numbers from a row to the next, of both
};

// Of how many bits the codes in memory are: 4 (nibbles), 8 (bytes), or 16: the bytes of all high
// halves, then those of all low halves.
constexpr int64_t cache_planes(int bits) { return bits == 16 ? 2 : 1; }

// One sequence's part of a page of 128 tokens: a layer and key/value head.
struct HeadPage {
  const uint8_t* keys;    // 8 panels of 16 tokens
  const uint8_t* values;  // head_size / 16 panels of 16 channels
  const float* key_scale;
  const float* key_zero;
  const float* value_scale;
  const float* value_zero;
};

inline constexpr int64_t kPageTokens = 128;
// Queries of an attention tile: each is two rows of digits.
inline constexpr int64_t kTileQueries = 4;
inline constexpr int64_t kLargestHead = 256;  // channels

// Up to kTileQueries queries of one key/value head and one sequence.
struct AttentionTile {
  int64_t queries;
  int64_t head_size;
  int cache_bits;                       // 4, 8 or 16
  float inverse_root;                   // 1 / sqrt(head size)
  const float* query[kTileQueries];     // after RoPE and Hadamard, [head_size] each
  float* output[kTileQueries];          // [head_size] each
  int64_t position[kTileQueries];       // keys 0 … position are visible,
  int64_t first_visible[kTileQueries];  // but for those before this one
  const HeadPage* pages;                // from position 0 on
};

// Sizes of a Hadamard transform H_blocks ⊗ H_base / sqrt(blocks · base).
struct HadamardPlan {
  int64_t size = 0;  // 0: none
  int64_t blocks = 0, base = 0;
  const int8_t* matrix = nullptr;  // [base, base]
  float factor = 1.0f;
};

inline constexpr int64_t kBoundLogits = 128;

struct EngineKernels {
  const char* name;
  // y = (x · r) · gain, r = 1 / sqrt(Σ x² / n + eps); gain may be null.
  void (*rms_norm)(const float* x, const float* gain, float* y, int64_t n, float eps);
  // Codes of x − offset (offset may be null). False if a number or a scale is not finite; the codes
  // are then some valid codes.
  bool (*quantize)(const float* x, const float* offset, int64_t n, const CodeGrid& grid,
                   const CodeRow& row);
  // Codes from 0 to grid.top (at most 65535) of a head's key or value, which is one group: `codes`
  // has a byte a code, or n high bytes and n low ones if grid.top > 255. False as quantize().
  bool (*cache_codes)(const float* x, int64_t n, const CodeGrid& grid, uint8_t* codes, float* scale,
                      float* zero);
  // Rotation of channel pairs (i, i + pairs) of one head by cos and sin [pairs], in place.
  void (*rope)(float* x, const float* cos, const float* sin, int64_t pairs);
  // In place, in `rows` neighbouring blocks of plan.size; `scratch` holds plan.size + 16 numbers.
  void (*hadamard)(float* x, int64_t rows, const HadamardPlan& plan, float* scratch);
  // silu(gate) · up of rows in turns of 16 gates and 16 ups: y[16 i + l] from x[32 i + l] and
  // x[32 i + 16 + l]; `y` may be `x`.
  void (*swiglu)(const float* x, float* y, int64_t n);
  // The outputs of a tile of products: (residual +) Σ … as PanelScales says.
  void (*epilogue)(const TileOutput& tile);
  // x as two 7-bit digits: q = round(x · (16255 / max |x|)) = 128 high + low, −64 ≤ low < 64.
  // Returns the scale max |x| / 16255 (0 for a row of zeros). The high digit of channel c
  // goes to (c / 4) · stride + c % 4, the low one 4 bytes behind it. `sums`: of the high and
  // of the low digits.
  float (*digits)(const float* x, int64_t n, int8_t* to, int64_t stride, int32_t* sums);
  // Attention of a tile over its pages. `products`: the integer tiles to use.
  void (*attention)(const AttentionTile& tile, const CodeProducts& products);
  // One panel of the head: logits of 16 rows (code − offset) · row_scale for a state of digits.
  //   ((float(H) · 128 + float(L)) · row_scale) · state_scale,  H = Σ code · high − offset · Σ high
  void (*head_panel)(const int32_t* high, const int32_t* low, const int32_t* digit_sums,
                     int32_t offset, const float* row_scale, float state_scale, float* out);
  // Σ x · w over n channels of fp16 weights in 16 partial sums.
  float (*dot_half)(const float* x, const uint16_t* w, int64_t n);
  // fp16 numbers as fp32.
  void (*from_half)(const uint16_t* x, float* y, int64_t n);
  // For logits z with errors e = row_scale · of_scale + row_weight · of_weight + |z| · 2^-20:
  // returns the largest z − e, and puts the largest z + e of each kBoundLogits neighbours into
  // `upper`. NaN is passed over.
  float (*logit_bounds)(const float* z, const float* row_scale, const float* row_weight, int64_t n,
                        float of_scale, float of_weight, float* upper);
};

const EngineKernels& engine_kernels_portable();
const EngineKernels& engine_kernels_avx2();
const EngineKernels& engine_kernels_avx512();

}  // namespace osp::kernels
