// The quantized linear layers of one input as the engine reads them: panels of 16 outputs
// (code_products.h) with their scales, one after the other in memory.
//
//   y[o] = Σ_t ((float(S_t − u_t A_t) − z_t c_t) · scale_w[o, t]) · scale_a[t] (+ bias[o])
//
//   t       segments of columns in which both weights and activations have one scale
//   S_t     Σ (code + b) · a, A_t = Σ a           exact integers; a: codes of the activations
//   b       8 for codes of up to 4 bits, in panels of nibbles; 128 for wider ones, in bytes
//   u_t     b + zero of the weights,  c_t = Σ (code − zero)
//   z_t     zero of the activations
//
// Tested by linear_product_test.cpp and engine_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "osp/quant/quantized_linear.h"
#include "osp/runtime/engine_kernels.h"
#include "osp/runtime/shared_array.h"

namespace osp {

struct PackedLinear {
  int64_t outputs = 0, columns = 0, segment = 0;
  int bits = 4;  // of the codes in panels: 4 or 8
  SharedArray<uint8_t> panels;
  SharedArray<float> scale, centre;  // [panels, segments, 16]
  SharedArray<int32_t> shifted;      // [panels, segments, 16]
  SharedArray<float> bias;           // [outputs] or empty
  bool all_eight = false;            // whether every u_t is 8; set by find_all_eight()

  int64_t panel_count() const { return outputs / kernels::kPanelOutputs; }
  int64_t line_columns() const { return kernels::line_columns(bits); }
  int64_t lines() const { return columns / line_columns(); }
  int64_t panel_bytes() const { return lines() * kernels::kLineBytes; }
  int64_t segments() const { return columns / segment; }
  kernels::PanelScales scales(int64_t panel) const;
  void find_all_eight();
};

// One layer to be packed; `bias` [out] fp64 or undefined.
struct LinearPart {
  const QuantizedLinear* weight = nullptr;
  at::Tensor bias;
};

// The segment of a weight's and an activation's group (columns; 0: all): the smaller one. 0 if
// neither divides the other.
int64_t common_segment(int64_t weight_group, int64_t activation_group, int64_t columns);

// Packs layers that read the same input: their outputs one after the other, or in turns of 16
// (gate and up). Outputs and columns are multiples of 16, codes have at most 8 bits.
PackedLinear pack_linear(const std::vector<LinearPart>& parts, int64_t segment, bool in_turns);

// Writes codes + 8 (0 … 15) of 16 outputs into a panel; `codes` int8 [16, columns].
void pack_panel(const int8_t* codes, int64_t columns, uint8_t* panel);
// Writes codes + 128 (0 … 255) as bytes.
void pack_byte_panel(const int8_t* codes, int64_t columns, uint8_t* panel);

}  // namespace osp
