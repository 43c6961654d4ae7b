// The head in 16, 8 or 4 bits.
//
//   16   z_v = Σ_i w_vi h_i in fp32 (16 partial sums), w in fp16
//   8    z_v = (float(H) · 128 + float(L)) · s_v · s_h: codes c_v = round(w_v / s_v),
//        s_v = max |w_v| / 127; h as two 7-bit digits; H = Σ c · high, L = Σ c · low,
//        exact integers
//   4    the same with 4-bit codes, s_v = max |w_v| / 7
//
// The greedy token of the 16-bit head at the cost of the others: only rows whose logit, plus
// a bound of its error, reaches the best lower bound can be the largest; these few are
// computed in 16 bits.
//
//   |z8 − z16| ≤ s_v ‖h‖₁ / 2 + s_h ‖c_v‖₁ s_v / 2 + rounding of the two fp32 computations
//
// Tested by head_test.cpp.
#pragma once

#include <cstdint>
#include <span>

#include "osp/runtime/engine_kernels.h"
#include "osp/runtime/shared_array.h"
#include "osp/runtime/worker_pool.h"

namespace osp {

// The rows of a head of 8 or 4 bits in panels of 16; those behind the vocabulary are 0.
struct HeadPanels {
  int64_t bits = 16;              // 16: there are none
  SharedArray<uint8_t> panels;    // [panels, lines, 64]
  SharedArray<float> scale;       // s_v, [16 · panels]
  SharedArray<float> weight_sum;  // s_v ‖c_v‖₁, the same

  // Bytes of one panel of `width` columns.
  static int64_t panel_bytes(int64_t width, int64_t bits);
};

// Quantizes a table fp16 [vocabulary, width] to 8 or 4 bits; the same bytes at every
// instruction set.
HeadPanels pack_head(std::span<const uint16_t> table, int64_t vocabulary, int64_t width,
                     int64_t bits, const kernels::EngineKernels& kernels);

class Head {
 public:
  // `table` fp16 [vocabulary, width], must outlive the head. `bits` 16, 8 or 4; `packed` is taken
  // for the panels if it has so many bits.
  Head(std::span<const uint16_t> table, int64_t vocabulary, int64_t width, int64_t bits,
       const kernels::EngineKernels& kernels, const kernels::CodeProducts& products,
       const HeadPanels& packed = {});

  int64_t bits() const { return bits_; }
  // Logits [rows, vocabulary] of states [rows, width].
  void logits(std::span<const float> states, int64_t rows, std::span<float> out, WorkerPool& pool);
  // The id of the largest logit of the 16-bit head for one state, the first among equals, of the
  // first `count` ids; `logits` are those that logits() gave. `candidates` (may be null) counts the
  // rows that were computed in 16 bits.
  int32_t greedy(std::span<const float> state, std::span<const float> logits, int64_t count,
                 int64_t* candidates = nullptr) const;

 private:
  void full_logits(const float* states, int64_t rows, float* out, WorkerPool& pool) const;
  void code_logits(const float* states, int64_t rows, float* out, WorkerPool& pool) const;
  // code_logits() by WideProducts: states are whole rows of digits.
  void wide_logits(const float* states, int64_t rows, float* out, WorkerPool& pool) const;
  // Logits of neighbouring panels for some states from the products of their digits, which are rows
  // 2 s and 2 s + 1; `sums` has the sums of both digits of each state.
  void panel_logits(int64_t first, int64_t panels, const int32_t* products, int64_t states,
                    const float* state_scale, const int32_t* sums, float* out) const;

  std::span<const uint16_t> table_;
  int64_t vocabulary_, width_, bits_;
  const kernels::EngineKernels& kernels_;
  const kernels::CodeProducts& products_;
  HeadPanels packed_;
};

}  // namespace osp
